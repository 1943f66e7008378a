"""Creates and compares image files."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, format_name: str, **options) -> bytes:
    """Encode an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def pixel(image: Image.Image) -> tuple[int, ...]:
    """Return the first pixel of an RGB image."""
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def difference(left: Image.Image, right: Image.Image) -> float:
    """Return the mean absolute difference of two images of the same size, 0..255."""
    assert left.size == right.size
    return float(np.abs(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)).mean())


def png_header(width: int, height: int) -> bytes:
    """Return a PNG whose header declares width x height pixels, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))
