"""Decode image files of any format to upright RGB images on white, within limits of size and cost."""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from ..errors import ImageError
from .url_fetch import MAX_BYTES, TIMEOUT

MAX_SEGMENTS = 20_000  # chunks of a PNG, or segments before the first scan of a JPEG
MAX_TEXT_CHUNK = 65_536  # bytes of a PNG text chunk that may hold the orientation; longer ones are dropped

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
    """Remove metadata that does not change the image from a PNG or JPEG; None if too many segments.

    Other files are returned unchanged. Of several images in a file, only the first may remain.
    """
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data)
    if data.startswith(JPEG_SIGNATURE):
        return _strip_jpeg(data)
    return data


def iter_jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG's first image; skip entropy-coded data and fill bytes."""
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
        if number == MAX_SEGMENTS:
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
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(data):
            return b"".join(kept)
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = view[position : position + length + 12]
        if _is_chunk_needed(kind, chunk):
            kept.append(chunk)
        if kind == b"IEND":
            return b"".join(kept)
        position += length + 12
    return None


def _is_chunk_needed(kind: bytes, chunk: memoryview) -> bool:
    is_critical = not kind[0] & 0x20
    if is_critical or kind in _KEPT_CHUNKS:
        return True
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or len(chunk) > MAX_TEXT_CHUNK:
        return False
    text = chunk[8:-4].tobytes()
    keyword = next((known for known in _ORIENTATION_TEXTS if text.startswith(known)), None)
    if keyword is None or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    # The byte after the keyword is the compression method in zTXt, and the compression flag in iTXt.
    content = text[len(keyword) :]
    if kind == b"zTXt":
        return _inflates_within_limit(content[1:])
    return kind == b"tEXt" or content.startswith(b"\0")


def _inflates_within_limit(compressed: bytes) -> bool:
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(compressed, MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return inflater.eof


MAX_SCANS = 100  # of a JPEG; encoders write 1, or about 10 if progressive
MAX_SCANNED_PIXELS = 20  # limit of scans x pixels of a JPEG, in units of `max_pixels`
MAX_TIFF_ENTRIES = 4096  # per page directory
MAX_TIFF_VALUES = 65_536  # per entry, mostly strips; one strip per pixel row is usual
MAX_GIF_BLOCKS = 10_000  # before the first image, of at most 255 bytes each
MAX_RUN_LENGTH_BYTES = 1_000_000  # of a BMP

_TIFF_BYTE_TYPES = (1, 2, 6, 7)  # types of entries with profiles and texts, which are not parsed


def find_exceeded_limit(data: bytes, max_pixels: int) -> str | None:
    """Find what makes an image file too expensive to decode, such as "120 scans"; None if nothing does.

    Args:
        data: the image file, with or without its metadata.
        max_pixels: maximum number of pixels of an image.
    """
    if data.startswith(JPEG_SIGNATURE):
        return _find_exceeded_jpeg_limit(data, max_pixels)
    if data.startswith((b"II", b"MM")):
        return _find_exceeded_tiff_limit(data)
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


def _find_exceeded_jpeg_limit(data: bytes, max_pixels: int) -> str | None:
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


def _find_exceeded_tiff_limit(data: bytes) -> str | None:
    for number, (_, count) in enumerate(iter_tiff_counts(data)):
        if number >= MAX_TIFF_ENTRIES:
            return f"more than {MAX_TIFF_ENTRIES:,} entries in a directory"
        if count > MAX_TIFF_VALUES:
            return f"{count:,} strips or other values"
    return None


def iter_tiff_counts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield tag and number of values of each entry of a TIFF's first page, except entries of byte types."""
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
    except (struct.error, OverflowError):  # an offset beyond the end of the file, or too large for `struct`
        return


def iter_gif_blocks(data: bytes) -> Iterator[int]:
    """Yield the offset of each extension block and sub-block before the first image of a GIF."""
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
    """Return whether a BMP is run-length encoded, which Pillow decodes slowly, in Python."""
    return len(data) >= 34 and struct.unpack_from("<I", data, 30)[0] in (1, 2)  # BI_RLE8, BI_RLE4


def _embedded_png_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield width and height from the header of each PNG embedded in an icon."""
    for match in re.finditer(rb"IHDR", data):
        if match.end() + 8 <= len(data):
            yield struct.unpack_from(">II", data, match.end())


try:
    from pi_heif import HeifImageFile
except ImportError:  # an optional package
    HeifImageFile = None

if TYPE_CHECKING:
    import numpy as np

# Formats that servers accept: each is decoded by a C library whose cost is bounded by the number of pixels.
SERVED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
HEIC = "HEIC"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_CONVERSION_ADVICE = "Convert it to PNG or JPEG with an image editor."
_BAND_PIXELS = 1_000_000  # converted at a time in a high-bit-depth grayscale image, to limit the memory for floats


@dataclass(frozen=True)
class ImageLimits:
    """Limits for loading an image.

    Attributes:
        max_pixels: maximum of width x height, checked in the header before decoding.
        max_bytes: maximum size of the file, the data or the download.
        timeout: total seconds for a download.
        public_only: download only from globally routable IP addresses; servers set this.
        domains: download only from these domains and their subdomains; empty allows all.
        formats: accepted file formats, by Pillow's names and HEIC; empty accepts all but EPS.
        ports: with public_only, allowed ports besides 80 and 443.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = MAX_BYTES
    timeout: float = TIMEOUT
    public_only: bool = False
    domains: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Decode an image file to an RGB image.

    Args:
        data: content of the file, in a format that `limits` allow; the first frame or page is decoded.
        name: subject of error messages, such as "The image data".
        limits: maximum size and cost.

    Raises:
        ImageError: `data` is no image, or it is damaged, too large or too expensive to decode.
    """
    with _translate_pillow_errors(name, limits):
        image = open_image(data, name, limits)
        image.load()
        _check_size(image, name, limits)  # the size in an icon's header may differ from that of the image inside
        _apply_exif_orientation(image)
        return to_rgb(image)


def open_image(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Read the header of an image file, without its pixels; same arguments as `decode_image`.

    Raises:
        ImageError: `data` is no image, or it is too large or too expensive to decode.
    """
    if not data:
        raise ImageError(f"{name} is empty. Save or download it again.")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{name} has more than {limits.max_bytes:,} bytes. Scale it down or save it as JPEG.")
    stripped = strip_metadata(data)
    exceeded = "too many metadata segments" if stripped is None else find_exceeded_limit(data, limits.max_pixels)
    if stripped is None or exceeded is not None:
        raise ImageError(f"{name} has {exceeded}, which take too long to decode. Save it again with an image editor.")
    with _translate_pillow_errors(name, limits):
        image = _identify(stripped, limits.formats)
        if image is None:
            raise ImageError(f"{name} {_describe_unknown(data, limits.formats)}")
        _check_size(image, name, limits)
    return image


def _identify(data: bytes, formats: Sequence[str]) -> Image.Image | None:
    """Open the image in `data` without decoding its pixels; None if it is of no allowed format.

    PIL.Image.open also warns about large images, which only a process-wide setting can disable; the caller checks the
    size instead.
    """
    if _is_heic(data):
        is_read = HeifImageFile is not None and (not formats or HEIC in formats)
        return HeifImageFile(io.BytesIO(data), "") if is_read else None
    for load_plugins in (Image.preinit, Image.init):  # the few common formats, then all
        load_plugins()
        for format_name in [known for known in Image.ID if known in formats or not formats]:
            image = None if format_name == "EPS" else _open_as(format_name, data)  # EPS would run Ghostscript
            if image is not None:
                return image
    return None


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def _open_as(format_name: str, data: bytes) -> Image.Image | None:
    if not _accepts(format_name, data):
        return None
    try:
        return Image.OPEN[format_name][0](io.BytesIO(data), "")
    except (SyntaxError, IndexError, TypeError, struct.error):  # how Pillow's plugins reject data of other formats
        return None


def _accepts(format_name: str, data: bytes) -> bool:
    """Return whether a Pillow plugin recognizes its format in the first bytes of `data`."""
    accept = Image.OPEN[format_name][1]
    accepted = accept(data[:16]) if accept else True
    return bool(accepted) and not isinstance(accepted, str)  # a string: this build of Pillow lacks the format


def _describe_unknown(data: bytes, formats: Sequence[str]) -> str:
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not an image. Give the address of the image itself."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image itself. Fetch the image with git lfs pull."
    if b"<svg" in start:
        return f"is an SVG drawing, which has no pixels. {_CONVERSION_ADVICE}"
    if start.startswith(b"%!ps"):
        return f"is a PostScript program, which is not executed. {_CONVERSION_ADVICE}"
    if _is_heic(data):
        return f"is in the HEIC format of phones, which needs the package pi-heif. Install it, or: {_CONVERSION_ADVICE}"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return f"is in the JPEG XL format, which is not supported. {_CONVERSION_ADVICE}"
    if data[128:132] == b"DICM":
        return "is a DICOM file, which is not supported. Export it as PNG with a DICOM viewer."
    if formats and (found := _name_format(data, formats)):
        *other_formats, last = formats
        accepted = f"only {', '.join(other_formats)} and {last} are accepted here"
        return f"is in the format {found}; {accepted}. {_CONVERSION_ADVICE}"
    return f"is not an image in a known format, or is damaged. {_CONVERSION_ADVICE}"


def _name_format(data: bytes, formats: Sequence[str]) -> str | None:
    """Return the name of a format outside `formats` that matches the first bytes, else None."""
    Image.init()
    other_formats = (name for name in Image.ID if name not in formats and Image.OPEN[name][1] is not None)
    typical = (name for name in other_formats if _accepts(name, data))
    return next((getattr(Image.OPEN[name][0], "format_description", None) or name for name in typical), None)


def normalize_image(image: Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    """Return a decoded RGB copy of a PIL image of any mode, with its EXIF orientation applied.

    Args:
        image, limits: the image, and its maximum size.
        name: subject of error messages.

    Raises:
        ImageError: it has no pixels or more than `limits` allow, or cannot be decoded.
    """
    _check_size(image, name, limits)
    with _translate_pillow_errors(name, limits):
        image.load()
        upright = image.copy()
        _apply_exif_orientation(upright)
        return to_rgb(upright)


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Resize an RGB image to the model's square input of `size` x `size` pixels.

    The resizing is bicubic and antialiased, and does not keep the aspect ratio.
    """
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _check_size(image: Image.Image, name: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width <= 0 or height <= 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}). Save or download it again.")
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{name} has {width} x {height} pixels", limits)


def _too_many_pixels(problem: str, limits: ImageLimits) -> ImageError:
    return ImageError(f"{problem}; at most {limits.max_pixels:,} are allowed. Scale it down and try again.")


@contextmanager
def _translate_pillow_errors(name: str, limits: ImageLimits) -> Iterator[None]:
    """Translate exceptions of Pillow for untrusted data to ImageError.

    For damaged data Pillow's decoders raise exceptions of almost any type, so every Exception means a bad image here.
    Its text is not in the message, because it may quote the data.
    """
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(f"{name} has too many pixels", limits) from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is. Scale it down, or end other programs.") from error
    except Exception as error:
        if isinstance(error, EOFError) or "truncated" in str(error).lower():
            raise ImageError(f"{name} is truncated: its end is missing. Copy or download it again.") from error
        raise ImageError(f"{name} cannot be decoded; it is damaged or of a rare kind. {_CONVERSION_ADVICE}") from error


def _apply_exif_orientation(image: Image.Image) -> None:
    """Rotate or mirror a loaded image in place, according to its EXIF orientation."""
    with suppress(Exception):  # invalid metadata may raise almost anything, but the pixels are valid
        ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode of Pillow to RGB with 8 bits per channel, with transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_high_bit_depth(image).convert("RGB")
    if image.mode == "LAB":
        return _convert_lab(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    unpremultiplied = image.convert("LA") if image.mode == "La" else image
    rgba = unpremultiplied if unpremultiplied.mode == "RGBA" else unpremultiplied.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _scale_high_bit_depth(image: Image.Image) -> Image.Image:
    """Convert a grayscale image of more than 8 bits, integer or float, to 8 bits (mode L)."""
    import numpy as np  # importing it takes longer than decoding most images

    values = np.asarray(image)  # [H, W]
    height = max(1, _BAND_PIXELS // image.width)
    bands = [slice(start, start + height) for start in range(0, image.height, height)]
    low, high = _value_range([values[rows] for rows in bands], image.mode)
    gray = np.empty(values.shape, np.uint8)
    for rows in bands:
        gray[rows] = _scale_band(values[rows].astype(np.float32), low, high, image.info.get("transparency"))
    return Image.fromarray(gray)


def _scale_band(values: "np.ndarray", low: float, high: float, transparent: Any) -> "np.ndarray":
    import numpy as np

    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    with np.errstate(over="ignore"):  # values that overflow are white
        scaled = np.rint((values - low) * (255 / max(high - low, 1e-30))).clip(0, 255).astype(np.uint8)
    if isinstance(transparent, int):
        scaled[values == transparent] = 255  # white
    return scaled


def _value_range(bands: Sequence["np.ndarray"], mode: str) -> tuple[float, float]:
    """Return the values of black and white.

    Only the 16-bit modes define them. For I and F the range is the smallest usual one (0 to 1 for floats, 8 or 16
    bits) that contains all values, else minimum and maximum of the values.
    """
    import numpy as np

    if mode.startswith("I;16"):
        return 0.0, 65535.0
    finite = (band[np.isfinite(band)] for band in bands)
    extremes = [np.float32(value) for band in finite if band.size for value in (band.min(), band.max())]
    low, high = (float(min(extremes)), float(max(extremes))) if extremes else (0.0, 1.0)
    usual = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next(((0.0, top) for top in usual if low >= 0 and high <= top), (low, high))


def _convert_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # needs LittleCMS, which not every build of Pillow has

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is returned only for in-place conversion
    return converted
