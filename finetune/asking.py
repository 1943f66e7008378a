"""Questions asked through the chat as a person would, and whether the answers are the expected ones.

    questions = [(Conversation(image), "How many objects are there?"), ...]
    for answer in answer_all(model, questions, greedy_config(model, max_new_tokens=200)): ...

`ask_all` does so with the questions of a file of data, and judges the answers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from model import ChatModel, Conversation, GenerationConfig, Language, SatChatModel, Turn, VisualGLMError
from model.chat_model import demo_config
from model.images.preprocess import load_image
from model.prompt import Tokenizer, clean_answer

from .encoding import LONGEST_TOKEN
from .shapes import Row

AT_ONCE = 64  # questions whose images are in memory at a time
SPARE = 16  # tokens that an answer may have beyond the longest expected one


@dataclass(frozen=True)
class Question:
    """A question about an image, or without one.

    Attributes:
        image: path of the image; None for none.
        language: of the marks before question and answer.
        text: the question.
        earlier: the turns before it.
        expected: the expected answer; "" if there is none.
        row: the number of its row of data, counted from 1; 0 if it comes from elsewhere.
    """

    image: Path | None
    language: Language
    text: str
    earlier: Sequence[Turn] = ()
    expected: str = ""
    row: int = 0

    def conversation(self) -> Conversation:
        """Return the conversation before the question.

        Raises:
            ImageError: the image is broken.
        """
        image = None if self.image is None else load_image(self.image)
        return Conversation(image, list(self.earlier), self.language)


@dataclass(frozen=True)
class Answer:
    """The answer of a model, and whether it is exactly the expected one."""

    text: str
    right: bool


@dataclass(frozen=True)
class Compared:
    """A question with the answers of two models."""

    question: Question
    before: Answer
    after: Answer


def questions_of(rows: Iterable[Row]) -> Iterator[Question]:
    """Yield a question for every answer that the rows want learned."""
    for row in rows:
        for number, turn in list(enumerate(row.turns))[row.learned_from :]:
            earlier, language = row.turns[:number], row.language_of(number)
            yield Question(row.image, language, turn.question, earlier, turn.answer, row.number)


def greedy_config(model: ChatModel, max_new_tokens: int) -> GenerationConfig:
    """Return the settings that the chat programs take from the model's directory, without sampling."""
    return demo_config(model).replace(temperature=0, max_new_tokens=max_new_tokens)


def answer_all(
    model: ChatModel, questions: Iterable[tuple[Conversation, str]], config: GenerationConfig, rows: int = 16
) -> Iterator[str | VisualGLMError]:
    """Yield the answer to each question in order, or the error that this question alone has met.

    Args:
        questions: are taken as they are needed, so that an iterator may load their images.
        rows: questions answered at a time, by a model that can answer several.
    """
    left, answer_batch = iter(questions), getattr(model, "answer_batch", None)
    while some := list(islice(left, AT_ONCE)):
        if answer_batch is not None:
            yield from answer_batch(some, config, rows)
        else:
            yield from (answer_alone(model, *one, config) for one in some)


def answer_alone(
    model: ChatModel, conversation: Conversation, question: str, config: GenerationConfig
) -> str | VisualGLMError:
    """Return a model's answer to one question, or its error."""
    try:
        return "".join(piece.text for piece in model.stream_answer(conversation, question, config))
    except VisualGLMError as error:
        return error


def ask_all(model: SatChatModel, questions: Sequence[Question], *, least: int = 0, rows: int = 16) -> Iterator[Answer]:
    """Yield the model's greedy answer to each question in order, and whether it is right.

    A question that cannot be answered has its error as a wrong answer.

    Args:
        least: tokens that an answer may have in any case; it is cut only where it is longer than every expected one.
        rows: questions answered at a time.

    Raises:
        ImageError: an image is broken.
    """
    told = ((one.conversation(), one.text) for one in questions)
    config = greedy_config(model, choose_length(model, questions, least))
    for one, answer in zip(questions, answer_all(model, told, config, rows), strict=True):
        is_right = not isinstance(answer, VisualGLMError) and is_expected(model.tokenizer, one, answer)
        yield Answer(str(answer), is_right)


def choose_length(model: SatChatModel, questions: Iterable[Question], least: int) -> int:
    """Return a maximum of new tokens with which an answer shows whether it is the expected one."""
    most: int = model.network.max_sequence_length
    lengths = (len(model.tokenizer.encode_text(one.expected[: most * LONGEST_TOKEN])) for one in questions)
    return min(max(least, max(lengths, default=0) + SPARE), most)


def as_shown(tokenizer: Tokenizer, text: str) -> str:
    """Return an answer of the data as the chat would show it, had the model learned it perfectly."""
    decoded = tokenizer.decode_text(tokenizer.encode_text(text))
    return clean_answer(tokenizer.clean_up_spaces(decoded))


def is_expected(tokenizer: Tokenizer, question: Question, answer: str) -> bool:
    """Whether an answer is exactly the expected one."""
    return answer == as_shown(tokenizer, question.expected)
