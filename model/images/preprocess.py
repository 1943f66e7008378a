"""Load images from bytes, paths, URLs, data URLs or PIL, and preprocess them to pixels [3, S, S].

Only the preprocessing imports torch and numpy: the child processes that decode images do without them.
"""

import binascii
import os
import re
import shlex
import stat
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import ImageError
from .decode import DEFAULT_LIMITS, ImageLimits, decode_image, normalize_image, resize_image, to_rgb
from .url_fetch import display_url, fetch_bytes

if TYPE_CHECKING:
    import torch

MAX_ESCAPES = 1_000_000  # %XX in a data URL; decoding each takes far more memory than its three bytes
_HEADER = re.compile(
    rb"\s{0,9}data:[^,;\"]{0,200}(?P<parameters>(?:;[^,;=\"]{1,99}=(?:\"(?:[^\"\\]|\\.){0,200}\"|[^,;\"]{0,200})){0,9})"
    rb"(?P<base64>;\s?base64)?\s?,",
    re.IGNORECASE,
)
_BLANKS = b" \t\r\n\v\f"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# Percent-encoded base64 characters and blanks: replaced first, because a large image may exceed MAX_ESCAPES.
_ESCAPES = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0A": b"", b"%0D": b"", b"%20": b""}


def read_data_url(text: bytes, max_bytes: int) -> bytes:
    """Decode base64 text, or a data URL (RFC 2397) in base64 or percent-encoding.

    Both base64 alphabets (RFC 4648) are accepted, with or without padding and blanks.

    Args:
        text: ASCII.
        max_bytes: maximum size of the result.

    Raises:
        ImageError: the text is neither, or the result is larger.
    """
    header = _HEADER.match(text)
    if header is None:
        return _decode_base64(text, max_bytes)
    if header["base64"] is None:
        return _decode_percent(text[header.end() :], max_bytes)
    return _decode_base64(_unescape(text[header.end() :]), max_bytes)


def _unescape(text: bytes) -> bytes:
    if b"%" in text:
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character).replace(escape.lower(), character)
    return _unquote(text)


def _decode_base64(text: bytes, max_bytes: int) -> bytes:
    encoded = text.translate(None, _BLANKS).rstrip(b"=")
    if len(encoded) > (max_bytes + 2) // 3 * 4:
        raise _too_large(max_bytes)
    if b"+" not in encoded and b"/" not in encoded:
        encoded = encoded.translate(_URL_SAFE)
    try:
        return binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except binascii.Error as error:
        raise ImageError("The image is not base64 text. Send the file's bytes encoded as base64.") from error


def _decode_percent(text: bytes, max_bytes: int) -> bytes:
    data = _unquote(text)
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def _unquote(text: bytes) -> bytes:
    if text.count(b"%") > MAX_ESCAPES:
        raise ImageError("The image's data URL has too many escapes. Send it as base64.")
    return urllib.parse.unquote_to_bytes(text)


def _too_large(max_bytes: int) -> ImageError:
    return ImageError(f"The image has more than {max_bytes:,} bytes. Scale it down or save it as JPEG.")


__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "DEFAULT_LIMITS",
    "BlipImageEvalProcessor",
    "ImageLimits",
    "decode_base64",
    "fetch_image",
    "load_image",
    "preprocess",
    "resize_image",
    "to_rgb",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_QUOTES = "\"'“”‘’"


def load_image(
    source: str | os.PathLike[str] | bytes | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS
) -> Image.Image:
    """Load an RGB image from a path, a URL, bytes or PIL, upright and with transparency on white.

    Args:
        source: a path or an http(s) URL, possibly in quotes; the content of an image file; or a PIL image. Every
            format that Pillow reads, except EPS; the first frame or page.
        limits: maximum size and cost.

    Raises:
        ImageError: the image cannot be found, fetched or decoded, or exceeds a limit.
    """
    if isinstance(source, Image.Image):
        return normalize_image(source, "The given image", limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), "The image data", limits)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"An image cannot be read from an object of type {type(source).__name__}. "
            "Give a path, a URL, the bytes of an image file or a PIL image."
        )
    text = os.fsdecode(source)
    url = _find_url(text) if isinstance(source, str) else None
    if url is None:
        return decode_image(_read_file(text, limits), f"The image {_shorten(text)}", limits)
    return decode_image(fetch_image(url, limits), f"The image {display_url(url)}", limits)


def fetch_image(url: str, limits: ImageLimits) -> bytes:
    """Download the image file at an http(s) URL, without decoding it.

    Raises:
        ImageError: the address is not allowed, or the response is missing, too large or too slow.
    """
    return fetch_bytes(
        url,
        max_bytes=limits.max_bytes,
        timeout=limits.timeout,
        public_only=limits.public_only,
        domains=limits.domains,
        ports=limits.ports,
    )


def decode_base64(text: str, *, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an RGB image from base64 text or a data URL.

    Raises:
        ImageError: the text is not base64, or the image cannot be decoded or exceeds a limit.
    """
    return decode_image(read_data_url(text.encode("ascii", "replace"), limits.max_bytes), "The image data", limits)


def preprocess(
    image: Image.Image,
    size: int,
    *,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> "torch.Tensor":
    """Preprocess an image for the vision transformer: pixels [3, size, size] float32.

    The image is resized to the square (bicubic, antialiased, aspect ratio not kept), scaled to [0, 1] and normalized
    with `mean` and `std` of each channel.
    """
    import numpy as np
    import torch

    rgb = image if image.mode == "RGB" else to_rgb(image)
    resized = resize_image(rgb, size)
    # With numpy, because torch would split this little work among all cores and wait for a busy one.
    values = np.array(np.asarray(resized).transpose(2, 0, 1), dtype=np.float32, order="C")  # [3, S, S]
    means, deviations = (np.array(numbers, dtype=np.float32).reshape(3, 1, 1) for numbers in (mean, std))
    return torch.from_numpy((values / 255 - means) / deviations)


class BlipImageEvalProcessor:  # public name
    """`BlipImageEvalProcessor(image_size)(image)` returns pixels [3, image_size, image_size]; see `preprocess`.

    The EXIF orientation is ignored here; `load_image` applies it.
    """

    def __init__(
        self, image_size: int = 384, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        self.image_size = image_size
        self.mean = CLIP_MEAN if mean is None else tuple(mean)
        self.std = CLIP_STD if std is None else tuple(std)

    def __call__(self, image: Image.Image) -> "torch.Tensor":
        return preprocess(image, self.image_size, mean=self.mean, std=self.std)


def _find_url(text: str) -> str | None:
    """Return the http(s) URL in `text`, None if it is a path; raise ImageError for other URL schemes."""
    cleaned = text.strip().strip(_QUOTES)
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://|data:", cleaned, re.IGNORECASE)
    if scheme is None:
        return None
    if (scheme[1] or "data").lower() in ("http", "https"):
        return cleaned
    raise ImageError(
        f"An image cannot be read from a {scheme[1] or 'data'}: address. "
        "Give an address that starts with http:// or https://, or the path of a file."
    )


def _read_file(text: str, limits: ImageLimits) -> bytes:
    """Read the file with path `text`, up to one byte more than allowed."""
    name = f"The image {_shorten(text)}"
    if not text.strip().strip(_QUOTES):
        raise ImageError("No image was given: the path is empty. Give the path of an image file.")
    path = _find_path(text)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a directory. Give the path of one image file in it.")
        if not stat.S_ISREG(mode):  # reading a pipe or a device could block forever
            raise ImageError(f"{name} is not a regular file. Save the image to a file and give its path.")
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
    """Return the first candidate path that exists, else the first candidate."""
    paths = [_expand_home(candidate) for candidate in _path_candidates(text)]
    return next((path for path in paths if _exists(path)), paths[0])


def _path_candidates(text: str) -> Iterator[str]:
    """Yield `text`, then `text` without the blanks, quotes and backslashes that terminals add to dropped files."""
    yield text
    yield text.strip()
    yield text.strip().strip(_QUOTES)
    try:
        words = shlex.split(text)
    except ValueError:  # an unpaired apostrophe in a name
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
    """Return `text` in quotes, with control characters escaped, shortened to about 160 characters."""
    return repr(text if len(text) <= 160 else f"{text[:80]}…{text[-79:]}")
