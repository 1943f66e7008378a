"""Chat messages: their schema, and the conversion to a question with its history and image.

The content of a message is a text, or a list of parts that are texts and images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from model import Turn

from .api_errors import ApiError

MAX_PARTS = 100
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "input_image")
DETAILS = ("auto", "low", "high", "original")  # accepted without effect

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
# `read_content` validates it: pydantic would report an error for each alternative of a union.
Content = Annotated[
    Any,
    WithJsonSchema(CONTENT_SCHEMA),
    Field(description="a text or a list of parts; an image's URL is a data URL, or http(s) where the server allows it"),
]


class Message(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = None


@dataclass
class MergedMessage:
    """Consecutive messages of one role, merged.

    Attributes:
        role: user or assistant.
    """

    role: str
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The texts, joined by line breaks."""
        return "\n".join(self.texts)


def read_messages(messages: Sequence[Message]) -> tuple[str, list[Turn], str | None]:
    """Convert messages to the question, the earlier turns, and the URL of the image or None.

    System messages are put before the first question. Consecutive messages of one role are joined by line breaks.

    Raises:
        ApiError: 400, the messages are not a conversation that ends with a question about at most one image.
    """
    merged: list[MergedMessage] = []
    system: list[str] = []
    images: dict[str, None] = {}
    texts: list[str]
    urls: list[str]
    for number, message in enumerate(messages):
        path = f"messages.{number}.content"
        if message.content is None and message.role == "assistant":  # other servers send reasoning without content
            texts, urls = [], []
        else:
            text, urls = read_content(message.content, path)
            texts = [text]
        if urls and message.role != "user":
            raise message_error("Only a message of the user can contain an image.", path)
        images |= dict.fromkeys(urls)
        if message.role in ("system", "developer"):
            system += texts
        elif merged and merged[-1].role == message.role:
            merged[-1].texts += texts
        else:
            merged.append(MergedMessage(message.role, texts))
    if len(images) > 1:
        reason = f"There are {len(images)} images; the model sees one in a conversation. Send one of them."
        raise ApiError(400, reason, code="too_many_images", param="messages")
    return *_to_turns(merged, system), next(iter(images), None)


def _to_turns(merged: list[MergedMessage], system: Sequence[str]) -> tuple[str, list[Turn]]:
    if not merged or merged[-1].role != "user":
        raise message_error("The last message should be the user's: there is nothing to answer.", "messages")
    if merged[0].role != "user":
        raise message_error("The first message other than system messages should be the user's.", "messages")
    if not merged[-1].text.strip():
        raise message_error("The last message has no text. Ask a question, even about an image.", "messages")
    merged[0].texts[:0] = [text for text in system if text.strip()]
    questions, answers = merged[::2], merged[1::2]
    turns = [Turn(question.text, answer.text) for question, answer in zip(questions, answers, strict=False)]
    return questions[-1].text, turns


def read_content(content: object, path: str) -> tuple[str, list[str]]:
    """Return the text of a message's content, and the URLs of its images.

    Args:
        content: parsed JSON.
        path: of the content in the request, for error messages.

    Raises:
        ApiError: 400, the content is neither text nor parts; `param` is the path of the first error.
    """
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise message_error(f"The content is {describe_json(content)}; it should be a text or a list of parts.", path)
    if len(content) > MAX_PARTS:
        raise message_error(f"The content has {len(content):,} parts; at most {MAX_PARTS} are allowed.", path)
    texts: list[str] = []
    urls: list[str] = []
    for number, part in enumerate(content):
        _read_part(part, f"{path}.{number}", texts, urls)
    return "\n".join(texts), urls


def _read_part(part: object, path: str, texts: list[str], urls: list[str]) -> None:
    """Append the text or the image URL of a part to `texts` or `urls`."""
    if isinstance(part, str):
        texts.append(part)
        return
    if not isinstance(part, Mapping):
        raise message_error(f"A part is {describe_json(part)}; it should be an object with a type, or a text.", path)
    kind = part.get("type")
    if isinstance(kind, str) and kind in TEXT_TYPES:
        texts.append(_read_text(part.get("text"), kind, f"{path}.text"))
    elif isinstance(kind, str) and kind in IMAGE_TYPES:
        urls.append(_read_image(part, kind, path))
    else:
        raise message_error(f"{_describe_type(kind)} {_supported_types()}", f"{path}.type")


def _describe_type(kind: object) -> str:
    if kind is None:
        return "A part has no type."
    if not isinstance(kind, str):
        return f"The type of a part is {describe_json(kind)}."
    return f"Parts of type {kind[:100]!r} are not supported."


def _supported_types() -> str:
    return (
        'A text is {"type": "text", "text": "..."}; '
        'an image is {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}.'
    )


def _read_text(text: object, kind: str, path: str) -> str:
    if not isinstance(text, str):
        reason = f"The text of a part of type {kind} is {describe_json(text)}; it should be a string."
        raise message_error(reason, path)
    return text


def _read_image(part: Mapping[str, object], kind: str, path: str) -> str:
    """Return the URL of an image part."""
    image, path = part.get("image_url"), f"{path}.image_url"
    _check_detail(part.get("detail"), path.removesuffix("image_url") + "detail")
    if isinstance(image, Mapping):
        _check_detail(image.get("detail"), f"{path}.detail")
        image, path = image.get("url"), f"{path}.url"
    if not isinstance(image, str):
        reason = f'it should be a data URL, or an object with the key "url", not {describe_json(image)}'
        raise message_error(f"A part of type {kind} needs image_url: {reason}.", path)
    if not image.strip():
        raise message_error("The image's url is empty. Send a data URL.", path)
    return image


def _check_detail(detail: object, path: str) -> None:
    if detail is not None and detail not in DETAILS:
        reason = f"detail is {describe_json(detail)}; it should be {', '.join(DETAILS)}, or left out."
        raise message_error(reason, path)


def describe_json(value: object) -> str:
    """Return the JSON type of a value in words, for error messages; for a string the start of the string."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return repr(value[:100])
    return "a list" if isinstance(value, list) else "an object"


def message_error(reason: str, path: str) -> ApiError:
    """Return the error for invalid messages; `path` locates the invalid value in the request."""
    return ApiError(400, reason, code="invalid_messages", param=path)
