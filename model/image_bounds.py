"""Bounds on what an image file may cost, read from its structure before a pixel is decoded.

The size in pixels bounds the work of most formats. These hold more work than pixels: a progressive JPEG decodes the
whole image once per scan, TIFF and PNG are read piece by piece, and an icon decodes an embedded image when it
is opened.
"""

import re
import struct
import zlib
from collections.abc import Iterator

MAX_SCANS = 100  # of a JPEG; encoders write 1, or about 10 for a progressive one
MAX_SCANNED_PIXELS = 20  # scans x pixels of a JPEG, in units of the most pixels allowed
MAX_STRIPS = 65_536  # strips or tiles of a TIFF; one strip a row is usual
MAX_CHUNKS = 20_000  # of a PNG; encoders write data chunks of 8 KiB or more
MAX_TEXT_CHUNK = 65_536  # bytes of a PNG text chunk that is kept, for the orientation in it

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT_CHUNKS = (b"tRNS", b"eXIf")
_ORIENTATION_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0-7, SOI: no length follows
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


def find_excess(data: bytes, max_pixels: int) -> str | None:
    """Return what makes an image file cost too much to decode, such as "120 scans"; None if nothing does.

    Args:
        data: the image file.
        max_pixels: the most pixels that an image may have.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _find_jpeg_excess(data, max_pixels)
    if data.startswith((b"II", b"MM")):
        count = count_tiff_strips(data)
        return f"{count:,} strips" if count > MAX_STRIPS else None
    if data.startswith((b"\0\0\1\0", b"icns")):
        for width, height in _embedded_png_sizes(data):
            if width * height > max_pixels:
                return f"an embedded image of {width} x {height} pixels"
    return None


def _find_jpeg_excess(data: bytes, max_pixels: int) -> str | None:
    scans, pixels = 0, 0
    for marker, segment in iter_jpeg_segments(data):
        if marker == _START_OF_SCAN:
            scans += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) >= 5:  # a frame header
            height, width = struct.unpack_from(">HH", segment, 1)
            pixels = max(pixels, width * height)
        if scans > MAX_SCANS or (scans > 1 and scans * pixels > MAX_SCANNED_PIXELS * max_pixels):
            return f"more than {scans - 1} scans"
    return None


def iter_jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the first bytes of each segment of a JPEG's first image, skipping entropy-coded data."""
    position = 2
    while match := _MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _END_OF_IMAGE:
            return
        if marker in _STANDALONE_MARKERS:
            continue
        if position + 2 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, position)
        yield marker, data[position + 2 : position + 2 + min(length, 16)]
        position += max(length, 2)


def count_tiff_strips(data: bytes) -> int:
    """Return how many strips or tiles the first page of a TIFF announces, 0 if its directory cannot be read."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        big = struct.unpack_from(f"{order}H", data, 2)[0] == 43  # BigTIFF
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (entries,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
        entry = struct.Struct(f"{order}HH{'Q8x' if big else 'I4x'}")
        directory = start + (8 if big else 2)
        tags = (entry.unpack_from(data, directory + number * entry.size) for number in range(min(entries, 65_536)))
        return max((count for tag, _, count in tags if tag in (_STRIP_OFFSETS, _TILE_OFFSETS)), default=0)
    except (struct.error, OverflowError):  # an offset beyond all files
        return 0


def _embedded_png_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the size that each embedded PNG of an icon announces."""
    for match in re.finditer(rb"IHDR", data):
        if match.end() + 8 <= len(data):
            yield struct.unpack_from(">II", data, match.end())


def strip_png(data: bytes) -> bytes | None:
    """Return a PNG without the chunks that do not change its first image; None if it has too many chunks.

    Color profiles, texts and later frames of an animation go. Decoders refuse a file for a profile or a text that is
    large or damaged, although its image is sound.
    """
    view = memoryview(data)
    kept: list[memoryview] = [view[: len(PNG_SIGNATURE)]]
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
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
