"""Read the content of a chat message: a text, or a list of parts that are texts and images."""

from collections.abc import Mapping
from typing import Any

from .api_errors import ApiError

MAX_PARTS = 100
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "input_image")
DETAILS = ("auto", "low", "high", "original")  # they make no difference

_TEXT = {"type": "string"}
_URL = {"type": "string", "minLength": 1}
_DETAIL = {"enum": [*DETAILS, None]}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"enum": list(TEXT_TYPES)}, "text": _TEXT},
    "required": ["type", "text"],
}
_IMAGE = {"type": "object", "properties": {"url": _URL, "detail": _DETAIL}, "required": ["url"]}
_IMAGE_PART = {
    "type": "object",
    "properties": {"type": {"enum": list(IMAGE_TYPES)}, "image_url": {"anyOf": [_URL, _IMAGE]}, "detail": _DETAIL},
    "required": ["type", "image_url"],
}
_PARTS = {"type": "array", "items": {"anyOf": [_TEXT, _TEXT_PART, _IMAGE_PART]}, "maxItems": MAX_PARTS}
CONTENT_SCHEMA: dict[str, Any] = {"anyOf": [_TEXT, _PARTS, {"type": "null"}]}


def read_content(content: object, where: str) -> tuple[str, list[str]]:
    """Return the text of a message's content and the URLs of its images.

    Reading by hand gives one reason for each fault; validating a union would report every alternative.

    Args:
        content: parsed JSON.
        where: its path in the request.

    Raises:
        Refusal: 400, it is neither text nor parts; `param` is the path of the first fault.
    """
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise message_error(f"The content is {describe_json(content)}; it should be a text or a list of parts.", where)
    if len(content) > MAX_PARTS:
        raise message_error(f"The content has {len(content):,} parts; at most {MAX_PARTS} are read.", where)
    texts: list[str] = []
    urls: list[str] = []
    for number, part in enumerate(content):
        _read_part(part, f"{where}.{number}", texts, urls)
    return "\n".join(texts), urls


def _read_part(part: object, where: str, texts: list[str], urls: list[str]) -> None:
    if isinstance(part, str):
        texts.append(part)
        return
    if not isinstance(part, Mapping):
        raise message_error(f"A part is {describe_json(part)}; it should be an object with a type, or a text.", where)
    kind = part.get("type")
    if isinstance(kind, str) and kind in TEXT_TYPES:
        texts.append(_read_text(part.get("text"), kind, f"{where}.text"))
    elif isinstance(kind, str) and kind in IMAGE_TYPES:
        urls.append(_read_image(part, kind, where))
    else:
        raise message_error(f"{_describe_type(kind)} {_known_types()}", f"{where}.type")


def _describe_type(kind: object) -> str:
    if kind is None:
        return "A part has no type."
    if not isinstance(kind, str):
        return f"The type of a part is {describe_json(kind)}."
    return f"Parts of type {kind[:100]!r} are not read."


def _known_types() -> str:
    return (
        'A text is {"type": "text", "text": "..."}; '
        'a picture is {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}.'
    )


def _read_text(text: object, kind: str, where: str) -> str:
    if not isinstance(text, str):
        raise message_error(
            f"The text of a part of type {kind} is {describe_json(text)}; it should be a string.", where
        )
    return text


def _read_image(part: Mapping[str, object], kind: str, where: str) -> str:
    image, where = part.get("image_url"), f"{where}.image_url"
    _check_detail(part.get("detail"), where.removesuffix("image_url") + "detail")
    if isinstance(image, Mapping):
        _check_detail(image.get("detail"), f"{where}.detail")
        image, where = image.get("url"), f"{where}.url"
    if not isinstance(image, str):
        reason = f'it should be a data URL, or an object with the key "url", not {describe_json(image)}'
        raise message_error(f"A part of type {kind} needs image_url: {reason}.", where)
    if not image.strip():
        raise message_error("The picture's url is empty. Send a data URL.", where)
    return image


def _check_detail(detail: object, where: str) -> None:
    if detail is not None and detail not in DETAILS:
        raise message_error(
            f"detail is {describe_json(detail)}; it should be {', '.join(DETAILS)}, or left out.", where
        )


def describe_json(value: object) -> str:
    """Return what kind of JSON a value is, in words; a short text itself."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return repr(value[:100])
    return "a list" if isinstance(value, list) else "an object"


def message_error(reason: str, where: str) -> ApiError:
    """Return the refusal of a message whose part at `where` is at fault."""
    return ApiError(400, reason, code="invalid_messages", param=where)
