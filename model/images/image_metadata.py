"""Leave out of an image file the metadata that does not change its decoded image.

Decoders refuse a file for a color profile or a text that is large or damaged, although its image is sound, and some
take minutes for millions of small pieces of metadata.
"""

import re
import struct
import zlib
from collections.abc import Iterator

MAX_PIECES = 20_000  # chunks of a PNG, or segments before the first scan of a JPEG
MAX_TEXT_CHUNK = 65_536  # bytes of a PNG text chunk that is kept, for the orientation in it

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
START_OF_SCAN = 0xDA
# Ancillary chunks of a PNG that change the image: transparency and orientation.
_KEPT_CHUNKS = (b"tRNS", b"eXIf")
# Keywords of PNG text chunks in which some programs store the orientation.
_ORIENTATION_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
# JPEG application segments that change the image: color model (JFIF, Adobe) and orientation (Exif, XMP).
_KEPT_SEGMENTS = ((0xE0, b"JFIF"), (0xE1, b"Exif"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xEE, b"Adobe"))
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0-7, SOI: no length follows
_END_OF_IMAGE, _COMMENT = 0xD9, 0xFE


def strip_metadata(data: bytes) -> bytes | None:
    """Return an image file without the metadata that does not change its image; None if it has too many pieces.

    Files other than PNG and JPEG are returned as they are. Of several images in a file only the first may remain.
    """
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data)
    if data.startswith(JPEG_SIGNATURE):
        return _strip_jpeg(data)
    return data


def iter_jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG's first image, skipping entropy-coded data and filling."""
    position = 2
    while match := _MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _END_OF_IMAGE:
            return
        if marker in _STANDALONE_MARKERS:
            continue
        length = max(2, int.from_bytes(data[position : position + 2], "big"))
        yield marker, match.start(), position + length
        position += length


def _strip_jpeg(data: bytes) -> bytes | None:
    view = memoryview(data)
    kept = [view[:2]]
    missing = set(_KEPT_SEGMENTS)
    for number, (marker, start, end) in enumerate(iter_jpeg_segments(data)):
        if number == MAX_PIECES:
            return None
        if marker == START_OF_SCAN:
            kept.append(view[start:])
            break
        kind = next((kind for kind in missing if kind[0] == marker and data.startswith(kind[1], start + 4)), None)
        if kind is not None:
            missing.remove(kind)
        if kind is not None or not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            kept.append(view[start:end])
    return b"".join(kept)


def _strip_png(data: bytes) -> bytes | None:
    view = memoryview(data)
    kept = [view[: len(PNG_SIGNATURE)]]
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PIECES):
        if position + 8 > len(data):
            return b"".join(kept)
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = view[position : position + length + 12]
        if _is_needed(kind, chunk):
            kept.append(chunk)
        if kind == b"IEND":
            return b"".join(kept)
        position += length + 12
    return None


def _is_needed(kind: bytes, chunk: memoryview) -> bool:
    is_critical = not kind[0] & 0x20
    if is_critical or kind in _KEPT_CHUNKS:
        return True
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or len(chunk) > MAX_TEXT_CHUNK:
        return False
    text = chunk[8:-4].tobytes()
    keyword = next((known for known in _ORIENTATION_TEXTS if text.startswith(known)), None)
    if keyword is None or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    # The byte after the keyword tells the compression of zTXt, and of iTXt whether there is any.
    content = text[len(keyword) :]
    if kind == b"zTXt":
        return _inflates_to_little(content[1:])
    return kind == b"tEXt" or content.startswith(b"\0")


def _inflates_to_little(compressed: bytes) -> bool:
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(compressed, MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return inflater.eof
