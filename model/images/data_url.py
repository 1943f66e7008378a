"""Decode base64 text or a data URL to the bytes of an image file, in linear time."""

import binascii
import re
import urllib.parse

from ..errors import ImageError

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
