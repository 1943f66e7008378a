"""Load an image from bytes, a path, a URL, a data URL or PIL, and make its pixels [3, S, S].

Nothing here imports torch or numpy before pixels are made: the processes that decode pictures do without them.
"""

import binascii
import hashlib
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

MAX_ESCAPES = 1_000_000  # %XX of a data URL; each takes far more memory than its three bytes
_HEADER = re.compile(
    rb"\s{0,9}data:[^,;\"]{0,200}(?P<parameters>(?:;[^,;=\"]{1,99}=(?:\"(?:[^\"\\]|\\.){0,200}\"|[^,;\"]{0,200})){0,9})"
    rb"(?P<base64>;\s?base64)?\s?,",
    re.IGNORECASE,
)
_BLANKS = b" \t\r\n\v\f"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# Characters of base64, and blanks, as URLs escape them: replaced first, because a large picture has too many of them.
_ESCAPES = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0A": b"", b"%0D": b"", b"%20": b""}


def read_data_url(text: bytes, max_bytes: int) -> bytes:
    """Return the bytes in `text`, base64 with blanks or not, or a data URL (RFC 2397) in base64 or percent-encoded.

    Both alphabets of base64 (RFC 4648) are read, padded or not.

    Args:
        text: ASCII.
        max_bytes: the most bytes that may result.

    Raises:
        ImageError: the text is neither, or holds more bytes.
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
        raise ImageError("The picture is not base64 text. Send the file's bytes encoded as base64.") from error


def _decode_percent(text: bytes, max_bytes: int) -> bytes:
    data = _unquote(text)
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def _unquote(text: bytes) -> bytes:
    if text.count(b"%") > MAX_ESCAPES:
        raise ImageError("The picture's data URL has too many escapes. Send it as base64.")
    return urllib.parse.unquote_to_bytes(text)


def _too_large(max_bytes: int) -> ImageError:
    return ImageError(f"The picture has more than {max_bytes:,} bytes. Scale it down or save it as JPEG.")


__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "DEFAULT_LIMITS",
    "BlipImageEvalProcessor",
    "ImageLimits",
    "decode_base64",
    "fetch_image",
    "image_digest",
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
    """Return the RGB picture that `source` names or holds, upright and on white where it is transparent.

    Args:
        source: a path or an http(s) URL (quotes around it do no harm), the bytes of a picture file,
            or a picture. Any format that Pillow reads but EPS; of an animation or several pages the first.
        limits: what is refused for its size.

    Raises:
        ImageError: the picture cannot be found, read or accepted; the message is for a person.
    """
    if isinstance(source, Image.Image):
        return normalize_image(source, "The given picture", limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), "The picture data", limits)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"A picture cannot be read from an object of type {type(source).__name__}. "
            "Give a path, a URL, the bytes of a picture file or a PIL image."
        )
    text = os.fsdecode(source)
    url = _find_url(text) if isinstance(source, str) else None
    if url is None:
        return decode_image(_read_file(text, limits), f"The picture {_shorten(text)}", limits)
    return decode_image(fetch_image(url, limits), f"The picture {display_url(url)}", limits)


def fetch_image(url: str, limits: ImageLimits) -> bytes:
    """Return the image file at an http(s) URL, not decoded.

    Raises:
        ImageError: the address is not allowed, or its answer is missing, too large or too slow.
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
    """Return the RGB picture in base64 text or a data URL.

    Raises:
        ImageError: the text is not base64, or the picture cannot be read or accepted.
    """
    return decode_image(read_data_url(text.encode("ascii", "replace"), limits.max_bytes), "The picture data", limits)


def preprocess(
    image: Image.Image,
    size: int,
    *,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> "torch.Tensor":
    """Return the pixels of `image`, [3, size, size] float32, as the vision transformer expects them.

    The whole picture is squeezed into the square (bicubic, antialiased, aspect ratio not kept), scaled to
    [0, 1] and normalised by each channel's `mean` and `std`.
    """
    import numpy as np
    import torch

    rgb = image if image.mode == "RGB" else to_rgb(image)
    resized = resize_image(rgb, size)
    # By numpy: torch would divide this little work among all cores, and wait for the one that has other work.
    values = np.array(np.asarray(resized).transpose(2, 0, 1), dtype=np.float32, order="C")  # [3, S, S]
    means, deviations = (np.array(numbers, dtype=np.float32).reshape(3, 1, 1) for numbers in (mean, std))
    return torch.from_numpy((values / 255 - means) / deviations)


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

    def __call__(self, image: Image.Image) -> "torch.Tensor":
        return preprocess(image, self.image_size, mean=self.mean, std=self.std)


def image_digest(pixels: "torch.Tensor") -> str:
    """Return a hexadecimal key that is the same exactly for tensors of the same shape, dtype and values."""
    import torch

    flat = pixels.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(f"{tuple(pixels.shape)} {pixels.dtype}".encode())
    digest.update(flat.numpy().data)
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
    paths = [_expand_home(candidate) for candidate in _path_candidates(text)]
    return next((path for path in paths if _exists(path)), paths[0])


def _path_candidates(text: str) -> Iterator[str]:
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
