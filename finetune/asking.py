"""Questions of a file of data, asked through the chat as a person would, and how many answers are the expected ones."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from model import Conversation, GenerationConfig, ImageError, Language, SatChatModel, Turn, VisualGLMError
from model.chat_model import demo_config
from model.images.preprocess import load_image
from model.prompt import Tokenizer, clean_answer

from .encoding import LONGEST_TOKEN
from .errors import BadRowError
from .shapes import Row

AT_ONCE = 64  # questions handed over together
SPARE = 16  # tokens that an answer may have beyond the longest expected one


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


def ask_all(model: SatChatModel, asked: Sequence[Asked], *, least: int = 0, rows: int = 16) -> Iterator[Answer]:
    """Yield the model's answer to each question in turn, by the most likely tokens, and whether it is right.

    The other settings are those that the chat programs take from the model's directory. A question that cannot be
    answered has its error as a wrong answer.

    Args:
        least: tokens that an answer may have in any case; it is cut only where it is longer than every expected one.
        rows: questions answered at a time.

    Raises:
        BadRowError: a picture is broken.
    """
    left, config = iter(asked), greedy_config(model, asked, least)
    while some := list(islice(left, AT_ONCE)):
        answers = model.answer_batch([(one.conversation(), one.question) for one in some], config, rows)
        for one, answer in zip(some, answers, strict=True):
            is_right = not isinstance(answer, VisualGLMError) and is_expected(model.tokenizer, one, answer)
            yield Answer(str(answer), is_right)


def greedy_config(model: SatChatModel, asked: Sequence[Asked], least: int) -> GenerationConfig:
    """Return the model's settings without sampling, with a length that shows if an answer is the expected one."""
    most = model.network.max_sequence_length
    lengths = (len(model.tokenizer.encode_text(one.expected[: most * LONGEST_TOKEN])) for one in asked)
    longest = min(max(least, max(lengths, default=0) + SPARE), most)
    return demo_config(model).replace(temperature=0, max_new_tokens=longest)


def as_shown(tokenizer: Tokenizer, text: str) -> str:
    """Return an answer of the data as the chat would show it, had the model learned it perfectly."""
    decoded = tokenizer.decode_text(tokenizer.encode_text(text))
    return clean_answer(tokenizer.clean_up_spaces(decoded))


def is_expected(tokenizer: Tokenizer, asked: Asked, answer: str) -> bool:
    """Whether an answer is exactly the expected one."""
    return answer == as_shown(tokenizer, asked.expected)
