"""One row of training data in any of the shapes that people have them in -> its picture and its turns.

    {"img": "a.png", "prompt": "...", "label": "..."}                            the original's
    {"prompt": "...", "label": "...", "history": [["...", "..."]]}               what was said before; no picture
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}
    {"images": ["a.png"], "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

Every answer of a conversation is trained on; those of a `history` are only read. "language" may be "zh" or "en".
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.prompt import CHINESE, ENGLISH, Language, Turn, question_language

from .errors import BadRowError

PICTURE_KEYS = ("img", "image", "images")
TALK_KEYS = ("conversations", "messages")
PICTURE_MARK = "<image>"  # where LLaVA's shape has the picture; the prompt has a place of its own for it
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
LANGUAGES = {language.code: language for language in (CHINESE, ENGLISH)}
LONGEST_QUOTE = 80


@dataclass(frozen=True)
class Row:
    """One row of training data.

    Attributes:
        number: as a person counts, see `BadRowError`.
        image: its picture, a file that is there; None for a talk without one.
        turns: questions and answers, oldest first.
        learned_from: index of the first turn whose answer is trained on; those before were said earlier.
        language: of the marks before questions and answers; None leaves it to each question.
    """

    number: int
    image: Path | None
    turns: list[Turn]
    learned_from: int = 0
    language: Language | None = None

    def language_of(self, turn: int) -> Language:
        """Return the language in which a turn is asked: the one given, else that of the question."""
        return self.language or question_language(self.turns[turn].question, ENGLISH, self.turns[:turn])


class ShapeError(Exception):
    """What is wrong with a row."""


def parse_row(record: Any, number: int, folder: Path) -> Row:
    """Read a row from what its JSON holds.

    Args:
        record: the JSON.
        number: of the row.
        folder: where a relative path to a picture starts; if it leads nowhere, the working directory.

    Raises:
        BadRowError: it has none of the shapes, an empty text, or a picture that is not there.
    """
    try:
        if not isinstance(record, Mapping):
            raise ShapeError(f"it is {quote(record)}, not an object in braces")
        name = picture_name(record)
        turns, learned_from = read_turns(record, has_picture=name is not None)
        language = read_language(record)
        return Row(number, None if name is None else find_picture(name, folder), turns, learned_from, language)
    except ShapeError as error:
        raise BadRowError(number, str(error)) from None


def picture_name(record: Mapping[str, Any]) -> str | None:
    """Return what the row says of its picture; None, where it has none."""
    names = [name for key in PICTURE_KEYS for name in as_list(record.get(key)) if name not in (None, "")]
    if len(names) > 1:
        raise ShapeError(f"it has {len(names)} pictures; the model reads one. Make a row of each")
    if names and not isinstance(names[0], str):
        raise ShapeError(f"its picture is {quote(names[0])}, not a path")
    return names[0] if names else None


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def find_picture(name: str, folder: Path) -> Path:
    """Return the path of a picture, from `folder` or else from the working directory."""
    if "://" in name:
        raise ShapeError(f"the picture {quote(name)} is an address. Download it and give the path of the file")
    for path in (folder / name, Path(name)):
        if os.path.isfile(path):  # noqa: PTH113  (says False where a path cannot even be one)
            return path
    raise ShapeError(f"the picture {quote(name)} was found neither beside the data file nor in the working directory")


def read_turns(record: Mapping[str, Any], has_picture: bool) -> tuple[list[Turn], int]:
    """Return the turns of a row, and the first one whose answer is trained on."""
    for key in TALK_KEYS:
        if key in record:
            return read_talk(record[key], key, has_picture), 0
    if "prompt" not in record or "label" not in record:
        raise ShapeError('it has neither "prompt" and "label" nor "conversations" nor "messages"')
    earlier = read_history(record.get("history"))
    last = Turn(read_text(record["prompt"], "prompt"), read_text(record["label"], "label"))
    return [*earlier, last], len(earlier)


def read_history(history: Any) -> list[Turn]:
    """Return the turns that a list of [question, answer] pairs tells of."""
    pairs = [] if history is None else history
    if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise ShapeError('its "history" is not a list of [question, answer] pairs')
    return [Turn(read_text(question, "history"), read_text(answer, "history")) for question, answer in pairs]


def read_talk(messages: Any, key: str, has_picture: bool) -> list[Turn]:
    """Return the turns of messages that two sides write in turn; what the system says goes before the question."""
    if not isinstance(messages, list) or not messages:
        raise ShapeError(f'its "{key}" is not a list of messages')
    spoken = [read_message(message, key) for message in messages]
    marks = sum(text.count(PICTURE_MARK) for role, text in spoken if role == "user")
    if marks > int(has_picture):
        raise ShapeError(f"it has {PICTURE_MARK} {marks} times, and {'one picture' if has_picture else 'no picture'}")
    opening = [text for role, text in spoken if role == "system"]
    said = [(role, text) for role, text in spoken if role != "system"]
    if not said or [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2):
        raise ShapeError(f'its "{key}" are not questions and answers in turn, the last one an answer')
    questions = [text.replace(PICTURE_MARK, "").strip() for _, text in said[::2]]
    questions[0] = "\n".join([*opening, questions[0]]) if questions[0] else ""
    return [
        Turn(read_text(question, "question"), read_text(answer, "answer"))
        for question, (_, answer) in zip(questions, said[1::2], strict=True)
    ]


def read_message(message: Any, key: str) -> tuple[str, str]:
    """Return who says what, in LLaVA's words or in ShareGPT's."""
    if isinstance(message, Mapping):
        role, text = (message.get(new, message.get(old)) for new, old in (("role", "from"), ("content", "value")))
        if isinstance(role, str) and role in ROLES and isinstance(text, str):
            return ROLES[role], text
    raise ShapeError(f'its "{key}" has {quote(message)}, which is no message of user, assistant or system')


def read_text(value: Any, name: str) -> str:
    """Return a text without the space around it."""
    if not isinstance(value, str):
        raise ShapeError(f'its "{name}" is {quote(value)}, not a text')
    if not value.strip():
        raise ShapeError(f'its "{name}" is empty')
    return value.strip()


def read_language(record: Mapping[str, Any]) -> Language | None:
    """Return the language that a row asks for."""
    code = record.get("language")
    if code is None:
        return None
    if not isinstance(code, str) or code not in LANGUAGES:
        raise ShapeError(f'its "language" is {quote(code)}; it should be one of {", ".join(LANGUAGES)}')
    return LANGUAGES[code]


def quote(value: Any) -> str:
    """Return a value as Python writes it, in a length that a line holds."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"
