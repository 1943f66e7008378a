"""Parse a row of training data, in the formats of several projects, to its picture and its turns.

    {"img": "a.png", "prompt": "...", "label": "..."}                            the original's
    {"prompt": "...", "label": "...", "history": [["...", "..."]]}               what was said before; no picture
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

Every answer of a conversation is trained on; those of a `history` are only read. A `system` text goes before the first
question. "language" may be "zh" or "en". Marks of the picture in questions, such as <image> or <img>a.png</img>, are
removed, and other names for the picture's key are read: see finetune/row_images.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import QuestionError
from model.prompt import CHINESE, ENGLISH, Language, Turn, question_language, to_turns

from .errors import BadRowError, RowFormatError, quote
from .row_images import (
    SOURCE_KEYS,
    find_image,
    image_keys,
    image_names,
    paths_of,
    reject_ignored_image,
    reject_marks,
    single_image,
    strip_marks,
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
        text: of all text parts.
        pictures: paths in its parts.
        placeholders: parts that stand for a picture that the row names elsewhere.
        unread: its keys that are not read.
    """

    role: str
    text: str = ""
    images: list[str] = field(default_factory=list)
    placeholders: int = 0
    ignored_keys: list[str] = field(default_factory=list)


def read_messages(messages: Any, key: str) -> list[Message]:
    """Return the messages of a row, system messages first, then questions and answers in turn.

    Args:
        messages: the value of `key`.

    Raises:
        ShapeError: they are something else.
    """
    if not isinstance(messages, list) or not messages:
        raise RowFormatError(f'its "{key}" is not a list of messages')
    read = [read_message(message, key) for message in messages]
    roles = [message.role for message in read]
    first = next((index for index, role in enumerate(roles) if role != "system"), len(roles))
    if "system" in roles[first:]:
        raise RowFormatError(
            f'its "{key}" has a system message after the first question. Put it at the beginning, or make it part of a '
            "question"
        )
    dialog = roles[first:]
    if not dialog or dialog != ["user", "assistant"] * (len(dialog) // 2):
        raise RowFormatError(f'its "{key}" are not questions and answers in turn, the last one an answer')
    return read


def read_message(value: Any, key: str) -> Message:
    """Return a message."""
    for role_key, text_key in MESSAGE_FIELDS:
        if isinstance(value, Mapping) and role_key in value and text_key in value:
            role = value[role_key]
            if not isinstance(role, str) or role.lower() not in ROLES:
                break
            ignored_keys = [name for name in value if name not in (role_key, text_key)]
            message = Message(ROLES[role.lower()], ignored_keys=ignored_keys)
            add_content(message, value[text_key], key)
            return message
    raise RowFormatError(f'its "{key}" has {quote(value)}, which is no message of user, assistant or system')


def add_content(message: Message, content: Any, key: str) -> None:
    """Add a message's content, a text or a list of parts."""
    if isinstance(content, str):
        message.text = content
        return
    if not isinstance(content, list):
        raise RowFormatError(f'its "{key}" has the content {quote(content)}, which is no message of text or parts')
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in IMAGE_PARTS:
            add_image(message, part)
        else:
            raise RowFormatError(
                f'its "{key}" has the part {quote(part)}, which is no message part of text or picture, like '
                '{"type": "text", "text": "..."} or {"type": "image", "image": "a.png"}'
            )
    message.text = "\n".join(texts)


def add_image(message: Message, part: Mapping[str, Any]) -> None:
    """Add the picture of a part to its message."""
    if message.role != "user":
        raise RowFormatError("it has a picture in a message of another role than user, which the model cannot read")
    paths = [path for key in SOURCE_KEYS if key in part for path in paths_of(part[key])]
    message.images += paths
    message.placeholders += not paths


MESSAGE_KEYS = ("conversations", "messages")
LANGUAGES = {language.code: language for language in (CHINESE, ENGLISH)}


@dataclass(frozen=True)
class Row:
    """One row of training data.

    Attributes:
        number: as a person counts, see `BadRowError`.
        image: its picture, a file that is there; None for a talk without one.
        turns: questions and answers, oldest first.
        learned_from: index of the first turn whose answer is trained on; those before were said earlier.
        language: of the marks before questions and answers; None leaves it to each question.
        unread: keys of the row that are not read; those of messages as in "messages[].weight".
    """

    number: int
    image: Path | None
    turns: list[Turn]
    first_trained_turn: int = 0
    language: Language | None = None
    ignored_keys: tuple[str, ...] = ()

    def language_of(self, turn: int) -> Language:
        """Return the language in which a turn is asked: the one given, else that of the question."""
        return self.language or question_language(self.turns[turn].question, ENGLISH, self.turns[:turn])


@dataclass(frozen=True)
class RowTexts:
    """The texts of a row as they stand there, marks included.

    Attributes:
        turns: questions and answers.
        learned_from: as in `Row`.
        system: texts to be put before the first question.
        pictures: paths in content parts.
        placeholders: content parts that stand for a picture named elsewhere.
        keys: of the row that were read.
        unread: keys of messages that were not read.
    """

    turns: list[tuple[str, str]]
    first_trained_turn: int
    system: list[str]
    images: list[str]
    placeholders: int
    keys: tuple[str, ...]
    ignored_keys: tuple[str, ...] = ()


def parse_row(record: Any, number: int, folder: Path) -> Row:
    """Read a row from what its JSON holds.

    Args:
        record: the JSON.
        number: of the row.
        folder: of the data file, where a relative path to a picture starts, see `find_image`.

    Raises:
        BadRowError: it has none of the shapes, an empty text, or a picture that is not there.
    """
    try:
        if not isinstance(record, Mapping):
            raise RowFormatError(f"it is {quote(record)}, not an object in braces")
        return read_row(record, number, folder)
    except RowFormatError as error:
        raise BadRowError(number, str(error)) from None


def read_row(record: Mapping[str, Any], number: int, folder: Path) -> Row:
    """Read a row from an object."""
    texts = read_texts(record)
    named = image_names(record)
    turns, tagged, placeholders = strip_all_marks(texts)
    name = single_image(named, [*texts.images, *tagged])
    if placeholders > int(name is not None):
        raise RowFormatError(
            f"it has {placeholders} picture marks like <image>, and {'one picture' if name else 'no picture'}. Give "
            'the picture as "img"'
        )
    read = (*texts.keys, *image_keys(record), "language")
    ignored_keys = [key for key in record if key not in read]
    if name is None:
        reject_ignored_image(record, ignored_keys)
    image = None if name is None else find_image(name, folder)
    return Row(
        number, image, turns, texts.first_trained_turn, read_language(record), (*ignored_keys, *texts.ignored_keys)
    )


def read_texts(record: Mapping[str, Any]) -> RowTexts:
    """Return the texts of a row."""
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
    """Return the texts of a row that has messages under `key`."""
    if record.get("history"):
        raise RowFormatError(f'it has a "history" beside "{key}". Put what was said before at the beginning of "{key}"')
    messages = read_messages(record[key], key)
    opening = [message.text for message in messages if message.role == "system"]
    if system and opening:
        raise RowFormatError(f'it has a "system" beside a system message in "{key}". Keep one of them')
    dialog = [message for message in messages if message.role != "system"]
    turns = [
        (require_text(asked.text, "question"), require_text(answer.text, "answer"))
        for asked, answer in zip(dialog[::2], dialog[1::2], strict=True)
    ]
    images = [path for message in dialog for path in message.images]
    ignored_keys = dict.fromkeys(f"{key}[].{name}" for message in messages for name in message.ignored_keys)
    placeholders = sum(message.placeholders for message in dialog)
    keys = (key, "system", "history")
    return RowTexts(turns, 0, [*system, *opening], images, placeholders, keys, tuple(ignored_keys))


def read_system(value: Any) -> list[str]:
    """Return the `system` of a row as a list of at most one text."""
    if value in (None, ""):
        return []
    return [require_text(value, "system")]


def read_history(history: Any) -> list[tuple[str, str]]:
    """Return the questions and answers of a `history`."""
    try:
        return [(turn.question, turn.answer) for turn in to_turns(history)]
    except QuestionError as error:
        raise RowFormatError(f'it has a "history" in another form: {error}') from None


def strip_all_marks(texts: RowTexts) -> tuple[list[Turn], list[str], int]:
    """Return the turns without picture marks, the paths in these, and the number of placeholders."""
    turns, paths, placeholders = [], [], texts.placeholders
    for index, (asked, answer) in enumerate(texts.turns):
        question, found, count = strip_marks(asked)
        paths += found
        placeholders += count
        is_learned = index >= texts.first_trained_turn
        reject_marks(answer, "answer" if is_learned else "history")
        turns.append(Turn(require_nonblank(question, "question"), require_nonblank(answer, "answer")))
    opening = [reject_marks(text, "system").strip() for text in texts.system]
    turns[0] = Turn("\n".join([*opening, turns[0].question]), turns[0].answer)
    return turns, paths, placeholders


def require_text(value: Any, name: str) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str):
        raise RowFormatError(f'its "{name}" is {quote(value)}, not a text')
    require_nonblank(value, name)
    return value


def require_nonblank(text: str, name: str) -> str:
    """Return stripped text, which must not be empty."""
    if not text.strip():
        raise RowFormatError(f'its "{name}" is empty')
    return text.strip()


def read_language(record: Mapping[str, Any]) -> Language | None:
    """Return the language that a row asks for."""
    code = record.get("language")
    if code is None:
        return None
    if not isinstance(code, str) or code not in LANGUAGES:
        raise RowFormatError(f'its "language" is {quote(code)}; it should be one of {", ".join(LANGUAGES)}')
    return LANGUAGES[code]
