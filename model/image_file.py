"""The bytes of a picture file -> RGB, upright and on white, whatever its format and mode, within limits."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from .errors import ImageError
from .fetch import MAX_BYTES, TIMEOUT

_CONVERT = "Convert it to PNG or JPEG with a picture program."


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost us.

    Attributes:
        max_pixels: most pixels, width x height, read from the header before anything is decoded.
        max_bytes: most bytes of the file, the data or the download.
        timeout: seconds that a download may take altogether.
        public_only: download from public addresses alone; a server sets this.
        domains: download from these domains and what is below them alone; none given, from any.
        ports: with public_only, ports other than 80 and 443 that may be asked.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = MAX_BYTES
    timeout: float = TIMEOUT
    public_only: bool = False
    domains: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Return the RGB picture in `data`, a picture file's bytes.

    Args:
        data: any format that Pillow reads but EPS; of an animation or several pages the first counts.
        name: what messages call the picture, like "The picture data".
        limits: what is refused for its size.

    Raises:
        ImageError: there is no picture in `data`, or it is damaged or too large.
    """
    if not data:
        raise ImageError(f"{name} is empty. Save or download it anew.")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{name} has more than {limits.max_bytes:,} bytes. Scale it down or save it as JPEG.")
    with _pillow_errors(name, limits):
        image = _identify(data)
    if image is None:
        raise ImageError(f"{name} {_describe_unknown(data)}")
    return finish_image(image, name, limits)


def _identify(data: bytes) -> Image.Image | None:
    """Return the picture in `data`, header read and pixels not, or None when no format of Pillow fits.

    PIL.Image.open does the same, but warns about large pictures, which only a process-wide setting silences;
    our own limit comes right after.
    """
    for load_plugins in (Image.preinit, Image.init):  # the few common formats, then all
        load_plugins()
        for format_name in tuple(Image.ID):
            image = None if format_name == "EPS" else _open_as(format_name, data)  # EPS would run Ghostscript
            if image is not None:
                return image
    return None


def _open_as(format_name: str, data: bytes) -> Image.Image | None:
    factory, accept = Image.OPEN[format_name]
    accepted = accept(data[:16]) if accept else True
    if not accepted or isinstance(accepted, str):  # a string says why Pillow was built without this format
        return None
    try:
        return factory(io.BytesIO(data), "")
    except (SyntaxError, IndexError, TypeError, struct.error):  # "not mine" in Pillow's protocol
        return None


def _describe_unknown(data: bytes) -> str:
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture. Give the address of the picture itself."
    if b"<svg" in start:
        return f"is an SVG drawing, which has no pixels. {_CONVERT}"
    if start.startswith(b"%!ps"):
        return f"is a PostScript program, which is not run. {_CONVERT}"
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return f"is in the HEIC format of phones, which is not read. {_CONVERT}"
    return f"is not a picture in a known format, or is damaged. {_CONVERT}"


def finish_image(image: Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    """Return a copy of `image`, called `name` in messages, decoded, upright and in RGB.

    Raises:
        ImageError: it has no pixels or more than `limits` allow, or cannot be decoded.
    """
    _check_size(image, name, limits)
    with _pillow_errors(name, limits):
        upright = _turn_upright(image)
        _check_size(upright, name, limits)  # an icon's header may lie about the picture inside
        return to_rgb(upright)


def _check_size(image: Image.Image, name: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width <= 0 or height <= 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}). Save or download it anew.")
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{name} has {width} x {height} pixels", limits)


def _too_many_pixels(what: str, limits: ImageLimits) -> ImageError:
    return ImageError(f"{what}; at most {limits.max_pixels:,} are read. Scale it down and try again.")


@contextmanager
def _pillow_errors(name: str, limits: ImageLimits) -> Iterator[None]:
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
    except Exception as error:
        if isinstance(error, EOFError) or "truncated" in str(error).lower():
            raise ImageError(f"{name} is cut off: its end is missing. Copy or download it anew.") from error
        raise ImageError(f"{name} cannot be decoded; it is damaged or of a rare kind. {_CONVERT}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata, raised as almost anything, does not spoil good pixels
        return image.copy()


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` (any mode of Pillow) in RGB, 8 bits a channel, with white behind what is transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_deep(image).convert("RGB")
    if image.mode == "LAB":
        return _convert_lab(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def _scale_deep(image: Image.Image) -> Image.Image:
    """Return a grey picture of more than 8 bits, integer or float, as L."""
    values = np.asarray(image).astype(np.float32)  # [H, W]
    low, high = _value_range(values, image.mode)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    with np.errstate(over="ignore"):  # what overflows is white
        scaled = np.rint((values - low) * (255 / max(high - low, 1e-30))).clip(0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255  # white
    return Image.fromarray(scaled)


def _value_range(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Return which values are black and white.

    Only the 16-bit modes declare it. For I and F it is the smallest usual range (1 for floats, 8 or 16 bits)
    that holds all values, else the values' own.
    """
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    usual = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next(((0.0, top) for top in usual if low >= 0 and high <= top), (low, high))


def _convert_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # needs LittleCMS, which not every build of Pillow has

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only when done in place
    return converted
