"""Questions of a file of data, asked through the chat as a person would, and how many answers are the expected ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from model import DEMO, Conversation, ImageError, Language, SatChatModel, Turn, VisualGLMError
from model.image import load_image
from model.prompt import clean_answer

from .errors import BadRowError
from .shapes import Row

GREEDY = DEMO.replace(temperature=0, repetition_penalty=1.0, max_new_tokens=256)
AT_ONCE = 64  # questions handed over together


@dataclass(frozen=True)
class Asked:
    """One question of a row.

    Attributes:
        row: the number of the row, as a person counts.
        image: its picture's file, None for none.
        earlier: what was said before, with the answers that the data expects.
        question, expected: the question and its answer.
        language: of the marks before them.
    """

    row: int
    image: Path | None
    earlier: list[Turn]
    question: str
    expected: str
    language: Language

    def conversation(self) -> Conversation:
        """Return what the question comes after.

        Raises:
            BadRowError: the picture is broken.
        """
        try:
            picture = None if self.image is None else load_image(self.image)
        except ImageError as error:
            raise BadRowError(self.row, str(error)) from error
        return Conversation(picture, self.earlier, self.language)


@dataclass(frozen=True)
class Answer:
    """What a model answered, and whether exactly that was expected."""

    text: str
    right: bool


@dataclass(frozen=True)
class Compared:
    """A question with the answers of both models."""

    asked: Asked
    before: Answer
    after: Answer


def questions_of(rows: Iterable[Row]) -> Iterator[Asked]:
    """Yield a question for every answer that the rows want learned."""
    for row in rows:
        for number, turn in list(enumerate(row.turns))[row.learned_from :]:
            language = row.language_of(number)
            yield Asked(row.number, row.image, row.turns[:number], turn.question, turn.answer, language)


def answer_all(model: SatChatModel, asked: Iterable[Asked]) -> Iterator[str]:
    """Yield the model's answer to each question in turn, by the most likely tokens.

    Raises:
        BadRowError: a picture is broken, or a question cannot be answered.
    """
    left = iter(asked)
    while some := list(islice(left, AT_ONCE)):
        told = [(one.conversation(), one.question) for one in some]
        for one, answer in zip(some, model.answer_batch(told, GREEDY), strict=True):
            if isinstance(answer, VisualGLMError):
                raise BadRowError(one.row, str(answer)) from answer
            yield answer


def as_shown(tokenizer: Any, text: str) -> str:
    """Return an answer of the data as the chat would show it, had the model learned it perfectly."""
    decoded = tokenizer.decode_text(tokenizer.encode_text(text))
    return clean_answer(tokenizer.clean_up_spaces(decoded))


def is_expected(tokenizer: Any, asked: Asked, answer: str) -> bool:
    """Whether an answer is exactly the expected one."""
    return answer == as_shown(tokenizer, asked.expected)
