"""Messages of a row of training data, in the words of several projects -> turns.

{"from": "human", "value": "..."}           LLaVA, ShareGPT
{"role": "user", "content": "..."}          OpenAI, ms-swift, LLaMA-Factory; the content may be a list of parts:
[{"type": "image", "image": "a.png"}, {"type": "text", "text": "..."}]
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ShapeError, quote
from .row_pictures import SOURCE_KEYS, paths_of

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
SPELLINGS = (("role", "content"), ("from", "value"))
TEXT_PARTS = ("text", "input_text", "output_text")
PICTURE_PARTS = ("image", "image_url", "input_image")


@dataclass
class Message:
    """One message of a row.

    Attributes:
        role: user, assistant or system.
        text: of all text parts.
        pictures: paths in its parts.
        placeholders: parts that stand for a picture that the row names elsewhere.
        unread: its keys that are not read.
    """

    role: str
    text: str = ""
    pictures: list[str] = field(default_factory=list)
    placeholders: int = 0
    unread: list[str] = field(default_factory=list)


def read_messages(messages: Any, key: str) -> list[Message]:
    """Return the messages of a row, system messages first, then questions and answers in turn.

    Args:
        messages: the value of `key`.

    Raises:
        ShapeError: they are something else.
    """
    if not isinstance(messages, list) or not messages:
        raise ShapeError(f'its "{key}" is not a list of messages')
    read = [read_message(message, key) for message in messages]
    roles = [message.role for message in read]
    first = next((place for place, role in enumerate(roles) if role != "system"), len(roles))
    if "system" in roles[first:]:
        raise ShapeError(
            f'its "{key}" has a system message after the first question. Put it at the beginning, or make it part of a '
            "question"
        )
    said = roles[first:]
    if not said or said != ["user", "assistant"] * (len(said) // 2):
        raise ShapeError(f'its "{key}" are not questions and answers in turn, the last one an answer')
    return read


def read_message(value: Any, key: str) -> Message:
    """Return a message."""
    for role_key, text_key in SPELLINGS:
        if isinstance(value, Mapping) and role_key in value and text_key in value:
            role = value[role_key]
            if not isinstance(role, str) or role.lower() not in ROLES:
                break
            unread = [name for name in value if name not in (role_key, text_key)]
            message = Message(ROLES[role.lower()], unread=unread)
            add_content(message, value[text_key], key)
            return message
    raise ShapeError(f'its "{key}" has {quote(value)}, which is no message of user, assistant or system')


def add_content(message: Message, content: Any, key: str) -> None:
    """Add a message's content, a text or a list of parts."""
    if isinstance(content, str):
        message.text = content
        return
    if not isinstance(content, list):
        raise ShapeError(f'its "{key}" has the content {quote(content)}, which is no message of text or parts')
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in PICTURE_PARTS:
            add_picture(message, part)
        else:
            raise ShapeError(
                f'its "{key}" has the part {quote(part)}, which is no message part of text or picture, like '
                '{"type": "text", "text": "..."} or {"type": "image", "image": "a.png"}'
            )
    message.text = "\n".join(texts)


def add_picture(message: Message, part: Mapping[str, Any]) -> None:
    """Add the picture of a part to its message."""
    if message.role != "user":
        raise ShapeError("it has a picture in a message of another role than user, which the model cannot read")
    paths = [path for key in SOURCE_KEYS if key in part for path in paths_of(part[key])]
    message.pictures += paths
    message.placeholders += not paths
