"""Bounds on what an image file may cost, read from its structure before a pixel is decoded.

The size in pixels bounds the work of most formats. These hold more work than pixels: a progressive JPEG decodes the
whole image once per scan; GIF, TIFF and run-length BMP are read piece by piece in Python; and an icon decodes an
embedded image when it is opened.
"""

import re
import struct
from collections.abc import Iterator

from .image_metadata import JPEG_SIGNATURE, START_OF_SCAN, iter_jpeg_segments

MAX_SCANS = 100  # of a JPEG; encoders write 1, or about 10 for a progressive one
MAX_SCANNED_PIXELS = 20  # scans x pixels of a JPEG, in units of the most pixels allowed
MAX_TIFF_ENTRIES = 4096  # of a page's directory
MAX_TIFF_VALUES = 65_536  # of one entry: strips, most of all; one strip a row is usual
MAX_GIF_BLOCKS = 10_000  # before the first image, of at most 255 bytes each
MAX_RUN_LENGTH_BYTES = 1_000_000  # of a BMP

_TIFF_BYTE_TYPES = (1, 2, 6, 7)  # of entries that hold profiles and texts, which are not taken apart


def find_excess(data: bytes, max_pixels: int) -> str | None:
    """Return the reason why an image file costs too much to decode, such as "120 scans"; None if there is none.

    Args:
        data: the image file, without the metadata that `strip_metadata` leaves out.
        max_pixels: the most pixels that an image may have.
    """
    if data.startswith(JPEG_SIGNATURE):
        return _find_jpeg_excess(data, max_pixels)
    if data.startswith((b"II", b"MM")):
        return _find_tiff_excess(data)
    if data.startswith(b"GIF8"):
        too_many = any(number >= MAX_GIF_BLOCKS for number, _ in enumerate(iter_gif_blocks(data)))
        return f"more than {MAX_GIF_BLOCKS:,} blocks" if too_many else None
    if data.startswith(b"BM") and _is_run_length_bmp(data) and len(data) > MAX_RUN_LENGTH_BYTES:
        return f"{len(data):,} bytes of run-length data"
    if data.startswith((b"\0\0\1\0", b"icns")):
        for width, height in _embedded_png_sizes(data):
            if width * height > max_pixels:
                return f"an embedded image of {width} x {height} pixels"
    return None


def _find_jpeg_excess(data: bytes, max_pixels: int) -> str | None:
    scans, pixels = 0, 0
    for marker, start, _ in iter_jpeg_segments(data):
        if marker == START_OF_SCAN:
            scans += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and start + 9 <= len(data):  # a frame header
            height, width = struct.unpack_from(">HH", data, start + 5)
            pixels = max(pixels, width * height)
        if scans > MAX_SCANS or (scans > 1 and scans * pixels > MAX_SCANNED_PIXELS * max_pixels):
            return f"more than {scans - 1} scans"
    return None


def _find_tiff_excess(data: bytes) -> str | None:
    for number, (_, count) in enumerate(iter_tiff_counts(data)):
        if number >= MAX_TIFF_ENTRIES:
            return f"more than {MAX_TIFF_ENTRIES:,} entries in a directory"
        if count > MAX_TIFF_VALUES:
            return f"{count:,} strips or other parts"
    return None


def iter_tiff_counts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the tag and the number of values of each entry of a TIFF's first page whose values are not bytes."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        big = struct.unpack_from(f"{order}H", data, 2)[0] == 43  # BigTIFF
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (entries,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
        entry = struct.Struct(f"{order}HH{'Q8x' if big else 'I4x'}")
        directory = start + (8 if big else 2)
        for number in range(entries):
            tag, kind, count = entry.unpack_from(data, directory + number * entry.size)
            if kind not in _TIFF_BYTE_TYPES:
                yield tag, count
    except (struct.error, OverflowError):  # an offset beyond the file, or beyond all files
        return


def iter_gif_blocks(data: bytes) -> Iterator[int]:
    """Yield the position of each extension block before the first image of a GIF, and of each of its sub-blocks."""
    flags = data[10] if len(data) > 10 else 0
    position = 13 + ((2 << (flags & 7)) * 3 if flags & 0x80 else 0)  # after the global color table
    while (introducer := data[position : position + 1]) not in (b",", b";", b""):
        yield position
        if introducer == b"!":
            position += 2
            while size := int.from_bytes(data[position : position + 1], "big"):
                yield position
                position += size + 1
        position += 1  # the end of the extension, or a stray byte, which decoders skip


def _is_run_length_bmp(data: bytes) -> bool:
    """Return whether the pixels of a BMP are runs, which Pillow decodes in Python."""
    return len(data) >= 34 and struct.unpack_from("<I", data, 30)[0] in (1, 2)  # BI_RLE8, BI_RLE4


def _embedded_png_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the size that each embedded PNG of an icon announces."""
    for match in re.finditer(rb"IHDR", data):
        if match.end() + 8 <= len(data):
            yield struct.unpack_from(">II", data, match.end())
