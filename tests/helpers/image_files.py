"""Creates and compares image files, also small ones that are expensive to decode or misstate their content."""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Encode an image as a file."""
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def pixel(image: Image.Image) -> tuple[int, ...]:
    """Return the first pixel of an RGB image."""
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def difference(left: Image.Image, right: Image.Image) -> float:
    """Return the mean absolute difference of two images of the same size, 0..255."""
    assert left.size == right.size
    return float(np.abs(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)).mean())


def many_scans(count: int, side: int = 64) -> bytes:
    """Return a progressive JPEG of `count` scans; its last scan is repeated."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    starts = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    return data[:-2] + data[starts[-1] : -2] * (count - len(starts)) + data[-2:]


def slow_to_decode() -> bytes:
    """Return a JPEG within the limits for 100 megapixels that takes seconds to decode."""
    return many_scans(99, side=4000)


def many_strips(count: int) -> bytes:
    """Return a TIFF whose first directory declares `count` strips."""
    data = encode(Image.new("L", (8, 8)), "TIFF")
    (start,) = struct.unpack_from("<I", data, 4)
    entry = data.index(struct.pack("<H", 273), start)
    return data[: entry + 4] + struct.pack("<I", count) + data[entry + 8 :]


def png_chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """Return a PNG chunk, with a wrong checksum if one is given."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG whose header declares width x height pixels, with hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 9))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Insert chunks into a PNG after its header."""
    end = len(PNG_SIGNATURE) + 25
    return png[:end] + b"".join(chunks) + png[end:]


def icon_around(png: bytes) -> bytes:
    """Return an icon that declares 16 x 16 pixels and contains any PNG."""
    entry = bytes([16, 16, 0, 0, 1, 0, 32, 0]) + len(png).to_bytes(4, "little") + (22).to_bytes(4, "little")
    return b"\0\0\1\0\1\0" + entry + png


def jpeg_with_random_tail(length: int) -> bytes:
    """Return a JPEG with trailing data, like the video of a motion photo; it looks like many scans."""
    return encode(Image.new("RGB", (64, 64)), "JPEG") + b"\xff\xda\0\x02" * (length // 4)


def plain_png(**options: Any) -> bytes:
    """Return a PNG of one color."""
    return encode(Image.new("RGB", (8, 6), (10, 20, 30)), "PNG", **options)


def run_length_bmp(side: int) -> bytes:
    """Return a BMP of runs of one pixel each, which Pillow decodes in Python."""
    rows = (b"\1\7" * side + b"\0\0") * side
    palette = bytes(range(256)) * 4
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows


def with_segments(segments: bytes) -> bytes:
    """Insert segments into a JPEG after its start."""
    data = encode(Image.new("RGB", (64, 64), (10, 20, 30)), "JPEG")
    return data[:2] + segments + data[2:]


def with_gif_comment(blocks: bytes) -> bytes:
    """Return a GIF with a comment of these sub-blocks before its image."""
    data = encode(Image.new("P", (8, 8)), "GIF")
    start = data.index(b",\0\0\0\0")
    return data[:start] + b"!\xfe" + blocks + b"\0" + data[start:]


def tiff_of_entries(count: int) -> bytes:
    """Return a TIFF whose directory has `count` entries."""
    entries = b"".join(struct.pack("<HHII", 1000 + number, 4, 1, number) for number in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4)


def costly_files() -> dict[str, bytes]:
    """Return costly files of many formats by name; the server rejects some of them."""
    side = 5900
    smooth = Image.linear_gradient("L").resize((side, side))
    photo = Image.merge("RGB", (smooth, smooth.rotate(90), smooth.rotate(180)))
    return {
        "10,000 scans": many_scans(10_000, side=4000),
        "40 scans": many_scans(40, side=4000),
        "progressive, 35 megapixels": encode(photo, "JPEG", progressive=True),
        "JPEG, 35 megapixels": encode(photo, "JPEG"),
        "PNG, transparent, 35 megapixels": encode(Image.new("RGBA", (side, side), (1, 2, 3, 90)), "PNG"),
        "PNG, 16 bits, 35 megapixels": encode(Image.new("I;16", (side, side)), "PNG"),
        "WebP, 35 megapixels": encode(Image.new("RGBA", (side, side), (1, 2, 3, 90)), "WEBP", method=0),
        "AVIF, 35 megapixels": encode(Image.new("RGB", (side, side)), "AVIF", speed=10),
        "GIF, 35 megapixels": encode(Image.new("P", (side, side)), "GIF"),
        "BMP of runs": run_length_bmp(2800),
        "a million strips": many_strips(1_000_000),
        "400,000 chunks": with_chunks(plain_png(), png_chunk(b"tEXt", b"a\0b") * 400_000),
        "8 million GIF blocks": with_gif_comment(b"\1a" * 8_000_000),
        "3 million JPEG segments": with_segments(b"\xff\xdb\0\2" * 3_000_000),
        "15 MB of JPEG filling": with_segments(b"\xff" * 15_000_000),
        "15 MB of GIF filling": with_gif_comment(b"")[:13] + bytes(15_000_000),
        "60,000 TIFF entries": tiff_of_entries(60_000),
        "JPEG 2000": encode(Image.new("L", (6000, 5000)), "JPEG2000"),
        "an icon around 36 megapixels": icon_around(encode(Image.new("L", (6000, 6000)), "PNG")),
        "PNG, 400 megapixels": encode(Image.new("1", (20_000, 20_000)), "PNG"),
        "a profile of 8 MB": with_chunks(plain_png(), png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(8_000_000)))),
    }
