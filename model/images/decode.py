"""Decode the bytes of an image file to RGB, upright and on white, in any format and mode, within limits."""

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
    # The byte after the keyword tells the compression of zTXt, and of iTXt whether there is any.
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


MAX_SCANS = 100  # of a JPEG; encoders write 1, or about 10 for a progressive one
MAX_SCANNED_PIXELS = 20  # scans x pixels of a JPEG, in units of the most pixels allowed
MAX_TIFF_ENTRIES = 4096  # of a page's directory
MAX_TIFF_VALUES = 65_536  # of one entry: strips, most of all; one strip a row is usual
MAX_GIF_BLOCKS = 10_000  # before the first image, of at most 255 bytes each
MAX_RUN_LENGTH_BYTES = 1_000_000  # of a BMP

_TIFF_BYTE_TYPES = (1, 2, 6, 7)  # of entries that hold profiles and texts, which are not taken apart


def find_exceeded_limit(data: bytes, max_pixels: int) -> str | None:
    """Return the reason why an image file costs too much to decode, such as "120 scans"; None if there is none.

    Args:
        data: the image file, without the metadata that `strip_metadata` leaves out.
        max_pixels: the most pixels that an image may have.
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


try:
    from pi_heif import HeifImageFile
except ImportError:  # an optional package
    HeifImageFile = None

if TYPE_CHECKING:
    import numpy as np

# What servers read: each is decoded by a C library whose cost is bounded by the number of pixels.
SERVED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
HEIC = "HEIC"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_CONVERSION_ADVICE = "Convert it to PNG or JPEG with a picture program."
_BAND_PIXELS = 1_000_000  # of a deep grayscale image, converted at a time: the intermediate floats take memory


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost us.

    Attributes:
        max_pixels: most pixels, width x height, read from the header before anything is decoded.
        max_bytes: most bytes of the file, the data or the download.
        timeout: seconds that a download may take altogether.
        public_only: download from public addresses alone; a server sets this.
        domains: download from these domains and what is below them alone; none given, from any.
        formats: file formats that are read, of Pillow's names and HEIC; none given, all but EPS.
        ports: with public_only, ports other than 80 and 443 that may be asked.
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
    """Return the RGB picture in `data`, a picture file's bytes.

    Args:
        data: any format that `limits` allow; of an animation or several pages the first counts.
        name: what messages call the picture, like "The picture data".
        limits: what is refused for its size or its cost.

    Raises:
        ImageError: there is no picture in `data`, or it is damaged, too large or too costly to decode.
    """
    with _translate_pillow_errors(name, limits):
        image = open_image(data, name, limits)
        image.load()
        _check_size(image, name, limits)  # an icon's header may lie about the picture inside
        _apply_exif_orientation(image)
        return to_rgb(image)


def open_image(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Read the header of the picture in `data`, without its pixels; same arguments as `decode_image`.

    Raises:
        ImageError: there is no picture in `data`, or it is too large or too costly to decode.
    """
    if not data:
        raise ImageError(f"{name} is empty. Save or download it anew.")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{name} has more than {limits.max_bytes:,} bytes. Scale it down or save it as JPEG.")
    stripped = strip_metadata(data)
    exceeded = "too many pieces of metadata" if stripped is None else find_exceeded_limit(data, limits.max_pixels)
    if stripped is None or exceeded is not None:
        raise ImageError(f"{name} has {exceeded}, which take too long to decode. Save it again with a picture program.")
    with _translate_pillow_errors(name, limits):
        image = _identify(stripped, limits.formats)
        if image is None:
            raise ImageError(f"{name} {_describe_unknown(data, limits.formats)}")
        _check_size(image, name, limits)
    return image


def _identify(data: bytes, formats: Sequence[str]) -> Image.Image | None:
    """Return the picture in `data`, header read and pixels not, or None when no allowed format fits.

    PIL.Image.open does the same, but warns about large pictures, which only a process-wide setting silences;
    our own limit comes right after.
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
    except (SyntaxError, IndexError, TypeError, struct.error):  # "not mine" in Pillow's protocol
        return None


def _accepts(format_name: str, data: bytes) -> bool:
    """Return whether a format of Pillow takes `data` for its own by the first bytes."""
    accept = Image.OPEN[format_name][1]
    accepted = accept(data[:16]) if accept else True
    return bool(accepted) and not isinstance(accepted, str)  # a string says why Pillow was built without this format


def _describe_unknown(data: bytes, formats: Sequence[str]) -> str:
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture. Give the address of the picture itself."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture itself. Fetch the picture with git lfs pull."
    if b"<svg" in start:
        return f"is an SVG drawing, which has no pixels. {_CONVERSION_ADVICE}"
    if start.startswith(b"%!ps"):
        return f"is a PostScript program, which is not run. {_CONVERSION_ADVICE}"
    if _is_heic(data):
        return f"is in the HEIC format of phones, which needs the package pi-heif. Install it, or: {_CONVERSION_ADVICE}"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return f"is in the JPEG XL format, which is not read. {_CONVERSION_ADVICE}"
    if data[128:132] == b"DICM":
        return "is a DICOM file, which is not read. Export it as PNG with a DICOM viewer."
    if formats and (found := _name_format(data, formats)):
        *other_formats, last = formats
        accepted = f"only {', '.join(other_formats)} and {last} are read here"
        return f"is in the format {found}; {accepted}. {_CONVERSION_ADVICE}"
    return f"is not a picture in a known format, or is damaged. {_CONVERSION_ADVICE}"


def _name_format(data: bytes, formats: Sequence[str]) -> str | None:
    """Return the name of the format, other than `formats`, that the first bytes are typical of."""
    Image.init()
    other_formats = (name for name in Image.ID if name not in formats and Image.OPEN[name][1] is not None)
    typical = (name for name in other_formats if _accepts(name, data))
    return next((getattr(Image.OPEN[name][0], "format_description", None) or name for name in typical), None)


def normalize_image(image: Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    """Return a copy of `image`, called `name` in messages, decoded, upright and in RGB.

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
    """Return an RGB image squeezed into a square of `size` x `size` pixels, as the model sees it.

    The resizing is bicubic and antialiased, and does not keep the aspect ratio.
    """
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _check_size(image: Image.Image, name: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width <= 0 or height <= 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}). Save or download it anew.")
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{name} has {width} x {height} pixels", limits)


def _too_many_pixels(what: str, limits: ImageLimits) -> ImageError:
    return ImageError(f"{what}; at most {limits.max_pixels:,} are read. Scale it down and try again.")


@contextmanager
def _translate_pillow_errors(name: str, limits: ImageLimits) -> Iterator[None]:
    """Put what Pillow raises while it reads untrusted data into plain words.

    Damaged data makes its many decoders raise nearly anything, so each Exception means a bad picture here.
    Its text stays out of the message, as it may quote the data.
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
            raise ImageError(f"{name} is cut off: its end is missing. Copy or download it anew.") from error
        raise ImageError(f"{name} cannot be decoded; it is damaged or of a rare kind. {_CONVERSION_ADVICE}") from error


def _apply_exif_orientation(image: Image.Image) -> None:
    """Rotate or mirror a loaded image in place as its EXIF orientation says."""
    with suppress(Exception):  # broken metadata, raised as almost anything, does not spoil good pixels
        ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` (any mode of Pillow) in RGB, 8 bits a channel, with white behind what is transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_high_bit_depth(image).convert("RGB")
    if image.mode == "LAB":
        return _convert_lab(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight if straight.mode == "RGBA" else straight.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _scale_high_bit_depth(image: Image.Image) -> Image.Image:
    """Return a grayscale picture of more than 8 bits, integer or float, as L."""
    import numpy as np  # takes longer to import than most pictures take to decode

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
    """Return which values are black and white.

    Only the 16-bit modes declare it. For I and F it is the smallest usual range (1 for floats, 8 or 16 bits)
    that holds all values, else the values' own.
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
    assert converted is not None  # None only when done in place
    return converted
