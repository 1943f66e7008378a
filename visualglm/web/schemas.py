"""The JSON bodies of requests to the page, validated."""

import json
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model import Turn
from model.command_line import make_printable

from .errors import PageError

MAX_QUESTION = 10_000  # characters
MAX_ANSWER = 100_000  # characters of a question or an answer in an earlier turn
MAX_TURNS = 1000
TOO_LONG = ("string_too_long", "too_long")
MAX_NAME = 300  # characters of a file name or of a path in an error message


def require_words(text: str) -> str:
    """Return the text without surrounding whitespace.

    Raises:
        ValueError: nothing is left.
    """
    if not (stripped := text.strip()):
        raise ValueError("it is empty")
    return stripped


def replace_surrogates(value: object) -> object:
    """Return a text with "?" for lone surrogates, which JSON allows and UTF-8 does not; other values unchanged."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(replace_surrogates)]
ImageId = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
EarlierText = Annotated[Text, Field(max_length=MAX_ANSWER)]
QuestionText = Annotated[Text, Field(max_length=MAX_QUESTION), AfterValidator(require_words)]
Answer = Annotated[Text, Field(max_length=MAX_ANSWER), AfterValidator(require_words)]
Number = int | float | None


class Body(BaseModel):
    """A JSON object whose values are not converted to other types."""

    model_config = ConfigDict(strict=True, frozen=True)


class TurnBody(Body):
    """A turn of the conversation."""

    question: EarlierText
    answer: EarlierText


class ConversationBody(Body):
    """A question about an image or none, after earlier turns."""

    image: ImageId | None = None
    turns: Annotated[list[TurnBody], Field(max_length=MAX_TURNS)] = []
    question: QuestionText

    def to_turns(self) -> list[Turn]:
        """Return the earlier turns."""
        return [Turn(turn.question, turn.answer) for turn in self.turns]


class AnswerBody(ConversationBody):
    """The body of POST page/answers."""

    language: Literal["zh", "en"] = "zh"
    settings: dict[str, Number] = {}
    model: Annotated[int, Field(ge=0, le=1)] = 0


class ExplanationBody(AnswerBody):
    """The body of POST page/explanations."""

    answer: Answer


class VoteBody(ConversationBody):
    """The body of POST page/votes."""

    image_name: Annotated[Text, Field(max_length=MAX_NAME)] = ""
    chosen: Answer
    rejected: Answer


B = TypeVar("B", bound=Body)


def parse_body(kind: type[B], body: bytes) -> B:
    """Parse a JSON body.

    Raises:
        PageError: invalid_request, or too_large for a text or list over its limit.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise PageError("invalid_request", detail="JSON") from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    path = make_printable(".".join(str(part) for part in first["loc"]))[:MAX_NAME]
    detail = f"{path}: {first['msg']}" if path else first["msg"]
    raise PageError("too_large" if first["type"] in TOO_LONG else "invalid_request", detail=detail)
