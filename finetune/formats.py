"""Parse a row of training data, in the formats of several projects, into its image and its turns.

    {"img": "a.png", "prompt": "...", "label": "..."}                            the original's format
    {"prompt": "...", "label": "...", "history": [["...", "..."]]}               with earlier turns; without an image
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

Rows of other trainers: see finetune/foreign_rows.py. Every answer of a conversation is trained on; answers of a
`history` are only context. A `system` text is inserted before the first question. "language" may be "zh" or "en".
Image tags in questions, such as <image> or <img>a.png</img>, are removed, and the image may have other keys: see
finetune/row_images.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import QuestionError
from model.prompt import CHINESE, ENGLISH, Language, Turn, question_language, to_turns

from .errors import BadRowError, RowFormatError, quote
from .foreign_rows import MESSAGE_KEYS, read_foreign, trains_last_answer
from .row_images import (
    SOURCE_KEYS,
    find_image,
    image_keys,
    image_names,
    paths_of,
    reject_ignored_image,
    reject_tags,
    single_image,
    strip_tags,
)

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
MESSAGE_FIELDS = (("role", "content"), ("from", "value"))
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image")


@dataclass
class Message:
    """One message of a row.

    Attributes:
        role: user, assistant or system.
        text: the texts of its content, joined.
        images: image paths in its content.
        placeholders: number of content parts that refer to an image given elsewhere in the row.
        ignored_keys: its keys that are ignored.
    """

    role: str
    text: str = ""
    images: list[str] = field(default_factory=list)
    placeholders: int = 0
    ignored_keys: list[str] = field(default_factory=list)


def read_messages(messages: Any, key: str) -> list[Message]:
    """Return the messages of a row: system messages, then alternating questions and answers.

    Args:
        messages: the value of `key`.
        key: a key of the row.

    Raises:
        RowFormatError: the messages have another format or order.
    """
    if not isinstance(messages, list) or not messages:
        raise RowFormatError(f'its "{key}" is not a list of messages, or is empty')
    read = [read_message(message, key) for message in messages]
    roles = [message.role for message in read]
    first = next((index for index, role in enumerate(roles) if role != "system"), len(roles))
    if "system" in roles[first:]:
        raise RowFormatError(
            f'its "{key}" has a system message after the first question. Move it to the beginning, or into a question'
        )
    dialog = roles[first:]
    if not dialog or dialog != ["user", "assistant"] * (len(dialog) // 2):
        raise RowFormatError(f'its "{key}" are not alternating questions and answers that end with an answer')
    return read


def read_message(value: Any, key: str) -> Message:
    """Parse a message.

    Raises:
        RowFormatError: the value is not a message of user, assistant or system.
    """
    for role_key, text_key in MESSAGE_FIELDS:
        if isinstance(value, Mapping) and role_key in value and text_key in value:
            role = value[role_key]
            if not isinstance(role, str) or role.lower() not in ROLES:
                break
            ignored_keys = [name for name in value if name not in (role_key, text_key)]
            message = Message(ROLES[role.lower()], ignored_keys=ignored_keys)
            add_content(message, value[text_key], key)
            return message
    raise RowFormatError(f'its "{key}" has {quote(value)}, which is not a message of user, assistant or system')


def add_content(message: Message, content: Any, key: str) -> None:
    """Add the content of a message, which is a text or a list of parts."""
    if isinstance(content, str):
        message.text = content
        return
    if not isinstance(content, list):
        raise RowFormatError(
            f'its "{key}" has the content {quote(content)}, which is neither a text nor a list of parts'
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in IMAGE_PARTS:
            add_image(message, part)
        else:
            raise RowFormatError(
                f'its "{key}" has the part {quote(part)}, which is neither a text nor an image, like '
                '{"type": "text", "text": "..."} or {"type": "image", "image": "a.png"}'
            )
    message.text = "\n".join(texts)


def add_image(message: Message, part: Mapping[str, Any]) -> None:
    """Add the image of a content part to its message."""
    if message.role != "user":
        raise RowFormatError("it has an image in a message of another role than user, which the model cannot read")
    paths = [path for key in SOURCE_KEYS if key in part for path in paths_of(part[key])]
    message.images += paths
    message.placeholders += not paths


LANGUAGES = {language.code: language for language in (CHINESE, ENGLISH)}


@dataclass(frozen=True)
class Row:
    """One row of training data.

    Attributes:
        number: number of the row, counted from 1; see `BadRowError`.
        image: path of its image, which exists; None without an image.
        turns: questions and answers, oldest first.
        first_trained_turn: index of the first turn whose answer is trained on; earlier turns are only context.
        language: language of the prompt's prefixes of questions and answers; None detects it for each question.
        ignored_keys: keys of the row that are ignored; keys of messages are written like "messages[].weight".
    """

    number: int
    image: Path | None
    turns: list[Turn]
    first_trained_turn: int = 0
    language: Language | None = None
    ignored_keys: tuple[str, ...] = ()

    def language_of(self, turn: int) -> Language:
        """Return the language of a turn: the row's, or else the question's."""
        return self.language or question_language(self.turns[turn].question, ENGLISH, self.turns[:turn])


@dataclass(frozen=True)
class RowTexts:
    """The texts of a row as they are in the file, with image tags.

    Attributes:
        turns: questions and answers.
        first_trained_turn: see `Row`.
        system: texts to insert before the first question.
        images: image paths in content parts.
        placeholders: number of content parts that refer to an image given elsewhere in the row.
        keys: keys of the row that were read.
        ignored_keys: keys of messages that are ignored.
    """

    turns: list[tuple[str, str]]
    first_trained_turn: int
    system: list[str]
    images: list[str]
    placeholders: int
    keys: tuple[str, ...]
    ignored_keys: tuple[str, ...] = ()


def parse_row(record: Any, number: int, folder: Path) -> Row:
    """Parse a row from its decoded JSON.

    Args:
        record: the decoded JSON.
        number: number of the row.
        folder: directory of the data file, to which image paths are relative; see `find_image`.

    Raises:
        BadRowError: the row has none of the formats, an empty text, or an image that does not exist.
    """
    try:
        if not isinstance(record, Mapping):
            raise RowFormatError(f"it is {quote(record)}, not an object in braces")
        return read_row(record, number, folder)
    except RowFormatError as error:
        raise BadRowError(number, str(error)) from None


def read_row(record: Mapping[str, Any], number: int, folder: Path) -> Row:
    """Parse a row from a JSON object.

    Raises:
        RowFormatError: see the BadRowError of `parse_row`.
    """
    record, foreign_keys = read_foreign(record)
    texts = read_texts(record)
    named = image_names(record)
    turns, tagged, placeholders = strip_all_tags(texts)
    name = single_image(named, [*texts.images, *tagged])
    if placeholders > int(name is not None):
        raise RowFormatError(
            f"it has {placeholders} image tags like <image>, but {'one image' if name else 'no image'}. Give "
            'the path of the image as "img"'
        )
    read = (*texts.keys, *foreign_keys, *image_keys(record), "language")
    ignored_keys = [key for key in record if key not in read]
    if name is None:
        reject_ignored_image(record, ignored_keys)
    image = None if name is None else find_image(name, folder)
    first = len(turns) - 1 if trains_last_answer(foreign_keys) else texts.first_trained_turn
    return Row(number, image, turns, first, read_language(record), (*ignored_keys, *texts.ignored_keys))


def read_texts(record: Mapping[str, Any]) -> RowTexts:
    """Read the questions, answers and system messages of a row, in any of the formats.

    Raises:
        RowFormatError: the row has none of the formats.
    """
    system = read_system(record.get("system"))
    for key in MESSAGE_KEYS:
        if key in record:
            return read_conversation(record, key, system)
    if "prompt" not in record or "label" not in record:
        keys = f". Its keys are {quote(list(record))}" if record else ""
        raise RowFormatError(f'it has neither "prompt" and "label" nor "conversations" nor "messages"{keys}')
    earlier = read_history(record.get("history"))
    last = (require_text(record["prompt"], "prompt"), require_text(record["label"], "label"))
    return RowTexts([*earlier, last], len(earlier), system, [], 0, ("prompt", "label", "history", "system"))


def read_conversation(record: Mapping[str, Any], key: str, system: Sequence[str]) -> RowTexts:
    """Read the questions, answers and system messages of a row whose messages are the value of `key`.

    Raises:
        RowFormatError: the messages have another format or order, or `history` or `system` is given twice.
    """
    if record.get("history"):
        raise RowFormatError(f'it has both "history" and "{key}". Move the earlier turns to the beginning of "{key}"')
    messages = read_messages(record[key], key)
    opening = [message.text for message in messages if message.role == "system"]
    if system and opening:
        raise RowFormatError(f'it has both "system" and a system message in "{key}". Keep one of them')
    dialog = [message for message in messages if message.role != "system"]
    turns = [
        (require_text(question.text, "question"), require_text(answer.text, "answer"))
        for question, answer in zip(dialog[::2], dialog[1::2], strict=True)
    ]
    images = [path for message in dialog for path in message.images]
    ignored_keys = dict.fromkeys(f"{key}[].{name}" for message in messages for name in message.ignored_keys)
    placeholders = sum(message.placeholders for message in dialog)
    keys = (key, "system", "history")
    return RowTexts(turns, 0, [*system, *opening], images, placeholders, keys, tuple(ignored_keys))


def read_system(value: Any) -> list[str]:
    """Return the `system` of a row as a list of at most one text.

    Raises:
        RowFormatError: the value is not a text.
    """
    if value in (None, ""):
        return []
    return [require_text(value, "system")]


def read_history(history: Any) -> list[tuple[str, str]]:
    """Return the questions and answers of a `history`.

    Raises:
        RowFormatError: the history has another format.
    """
    try:
        return [(turn.question, turn.answer) for turn in to_turns(history)]
    except QuestionError as error:
        raise RowFormatError(f'its "history" has another format: {error}') from None


def strip_all_tags(texts: RowTexts) -> tuple[list[Turn], list[str], int]:
    """Return the turns without image tags, the paths in the tags, and the number of placeholders."""
    turns, paths, placeholders = [], [], texts.placeholders
    for index, (question, answer) in enumerate(texts.turns):
        question, found, count = strip_tags(question)
        paths += found
        placeholders += count
        is_trained = index >= texts.first_trained_turn
        reject_tags(answer, "answer" if is_trained else "history")
        turns.append(Turn(require_nonblank(question, "question"), require_nonblank(answer, "answer")))
    opening = [reject_tags(text, "system").strip() for text in texts.system]
    turns[0] = Turn("\n".join([*opening, turns[0].question]), turns[0].answer)
    return turns, paths, placeholders


def require_text(value: Any, name: str) -> str:
    """Return a text.

    Raises:
        RowFormatError: it is not a text, or is blank.
    """
    if not isinstance(value, str):
        raise RowFormatError(f'its "{name}" is {quote(value)}, not a text')
    require_nonblank(value, name)
    return value


def require_nonblank(text: str, name: str) -> str:
    """Return stripped text.

    Raises:
        RowFormatError: the text is blank.
    """
    if not text.strip():
        raise RowFormatError(f'its "{name}" is empty')
    return text.strip()


def read_language(record: Mapping[str, Any]) -> Language | None:
    """Return the language that a row specifies; None if it specifies none."""
    code = record.get("language")
    if code is None:
        return None
    if not isinstance(code, str) or code not in LANGUAGES:
        raise RowFormatError(f'its "language" is {quote(code)}; it should be one of {", ".join(LANGUAGES)}')
    return LANGUAGES[code]
