"""bytes | path | URL | PIL -> RGB -> pixels [3, S, S]."""

import hashlib
import io
import os
import re
import shlex
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .errors import ImageError
from .fetch import MAX_BYTES, TIMEOUT, display_url, fetch_bytes

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_CONVERT = "Convert it to PNG or JPEG with a picture program."
_QUOTES = "\"'“”‘’"


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost us.

    Attributes:
        max_pixels: most pixels, width x height, read from the header before anything is decoded.
        max_bytes: most bytes of the file, the data or the download.
        timeout: seconds that a download may take altogether.
        public_only: download from public addresses alone; a server sets this.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = MAX_BYTES
    timeout: float = TIMEOUT
    public_only: bool = False


DEFAULT_LIMITS = ImageLimits()


def load_image(
    source: str | os.PathLike[str] | bytes | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS
) -> Image.Image:
    """Return the RGB picture that `source` names or holds, upright and on white where it is transparent.

    Args:
        source: a path or an http(s) URL (quotes around it do no harm), the bytes of a picture file,
            or a picture. Any format that Pillow reads but EPS; of an animation or several pages the first.
        limits: what is refused for its size.

    Raises:
        ImageError: the picture cannot be found, read or accepted; the message is for a person.
    """
    if isinstance(source, Image.Image):
        return _finish(source, "The given picture", limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "The picture data", limits)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"A picture cannot be read from an object of type {type(source).__name__}. "
            "Give a path, a URL, the bytes of a picture file or a PIL image."
        )
    text = os.fsdecode(source)
    url = _find_url(text) if isinstance(source, str) else None
    if url is None:
        return _decode(_read_file(text, limits), f"The picture {_shorten(text)}", limits)
    data = fetch_bytes(url, max_bytes=limits.max_bytes, timeout=limits.timeout, public_only=limits.public_only)
    return _decode(data, f"The picture {display_url(url)}", limits)


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


def preprocess(
    image: Image.Image,
    size: int,
    *,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> torch.Tensor:
    """Return the pixels of `image`, [3, size, size] float32, as the vision transformer expects them.

    The whole picture is squeezed into the square (bicubic, antialiased, aspect ratio not kept), scaled to
    [0, 1] and normalised by each channel's `mean` and `std`.
    """
    rgb = image if image.mode == "RGB" else to_rgb(image)
    resized = rgb.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()  # [3, S, S] uint8
    means, deviations = (
        torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(3, 1, 1) for numbers in (mean, std)
    )
    return (pixels.to(torch.float32) / 255 - means) / deviations


class BlipImageEvalProcessor:  # public name
    """`BlipImageEvalProcessor(image_size)(picture)` -> pixels [3, image_size, image_size]; see `preprocess`.

    The picture is taken as it lies; only `load_image` turns it upright.
    """

    def __init__(
        self, image_size: int = 384, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        self.image_size = image_size
        self.mean = CLIP_MEAN if mean is None else tuple(mean)
        self.std = CLIP_STD if std is None else tuple(std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return preprocess(image, self.image_size, mean=self.mean, std=self.std)


def image_digest(pixels: torch.Tensor) -> str:
    """Return a hexadecimal key that is the same exactly for tensors of the same shape, dtype and values."""
    flat = pixels.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(f"{tuple(pixels.shape)} {pixels.dtype}".encode())
    digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


def _find_url(text: str) -> str | None:
    """Return the http(s) URL in `text`, None when it is a path; ImageError for any other kind of URL."""
    cleaned = text.strip().strip(_QUOTES)
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://|data:", cleaned, re.IGNORECASE)
    if scheme is None:
        return None
    if (scheme[1] or "data").lower() in ("http", "https"):
        return cleaned
    raise ImageError(
        f"A picture cannot be read from a {scheme[1] or 'data'}: address. "
        "Give an address that starts with http:// or https://, or the path of a file."
    )


def _read_file(text: str, limits: ImageLimits) -> bytes:
    """Return the content of the file that `text` names, at most one byte more than allowed."""
    name = f"The picture {_shorten(text)}"
    if not text.strip().strip(_QUOTES):
        raise ImageError("No picture was given: the path is empty. Give the path of a picture file.")
    path = _find_path(text)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a directory. Give the path of one picture file in it.")
        if not stat.S_ISREG(mode):  # a pipe or a device could keep us waiting for ever
            raise ImageError(f"{name} is not a regular file. Save the picture in a file and give its path.")
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        advice = "Check the spelling; a relative path starts in the current directory."
        raise ImageError(f"{name} was not found. {advice}") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read: permission denied. Change its permissions.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "this cannot be a path"
        raise ImageError(f"{name} could not be read: {reason}. Check the path.") from error


def _find_path(text: str) -> Path:
    """Return the first reading of `text` that exists, else its plainest one."""
    paths = [_expand_home(reading) for reading in _path_readings(text)]
    return next((path for path in paths if _exists(path)), paths[0])


def _path_readings(text: str) -> Iterator[str]:
    """Yield `text` itself, then what a terminal may have made of it: blanks, quotes, backslashes."""
    yield text
    yield text.strip()
    yield text.strip().strip(_QUOTES)
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe in a name is no quote
        return
    if len(words) == 1:
        yield words[0]


def _expand_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _shorten(text: str) -> str:
    """Return `text` quoted, control characters escaped, and not longer than a line or two."""
    return repr(text if len(text) <= 160 else f"{text[:80]}…{text[-79:]}")


def _decode(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Return the RGB picture in `data`, called `name` in messages."""
    if not data:
        raise ImageError(f"{name} is empty. Save or download it anew.")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{name} has more than {limits.max_bytes:,} bytes. Scale it down or save it as JPEG.")
    with _pillow_errors(name, limits):
        image = _identify(data)
    if image is None:
        raise ImageError(f"{name} {_describe_unknown(data)}")
    return _finish(image, name, limits)


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


def _finish(image: Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    """Return a copy of `image`, if its size is acceptable, decoded, upright and in RGB."""
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
