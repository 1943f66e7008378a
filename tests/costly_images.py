"""Image files that are small and cost much to decode, or that hold more than their header tells."""

import io
import re
import struct
import zlib

from PIL import Image

from tests.picture_files import encode

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def many_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG of `count` scans, most of which repeat the last."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    starts = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    return data[:-2] + data[starts[-1] : -2] * (count - len(starts)) + data[-2:]


def slow_to_decode() -> bytes:
    """A JPEG within the bounds for 100 million pixels whose decoding takes seconds."""
    return many_scans(99, side=4000)


def many_strips(count: int) -> bytes:
    """A TIFF that announces `count` strips, as its first page's directory tells it."""
    data = encode(Image.new("L", (8, 8)), "TIFF")
    (start,) = struct.unpack_from("<I", data, 4)
    entry = data.index(struct.pack("<H", 273), start)
    return data[: entry + 4] + struct.pack("<I", count) + data[entry + 8 :]


def png_chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG, with a wrong checksum if one is given."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks after its header."""
    end = len(PNG_SIGNATURE) + 25
    return png[:end] + b"".join(chunks) + png[end:]


def icon_around(png: bytes) -> bytes:
    """An icon that announces 16 x 16 pixels and holds any PNG."""
    entry = bytes([16, 16, 0, 0, 1, 0, 32, 0]) + len(png).to_bytes(4, "little") + (22).to_bytes(4, "little")
    return b"\0\0\1\0\1\0" + entry + png


def jpeg_with_random_tail(length: int) -> bytes:
    """A JPEG followed by other data, as a phone's motion photo is by a film; it looks full of scans."""
    return encode(Image.new("RGB", (64, 64)), "JPEG") + b"\xff\xda\0\x02" * (length // 4)


def plain_png(**save: object) -> bytes:
    """A PNG of one color."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (10, 20, 30)).save(file, "PNG", **save)
    return file.getvalue()
