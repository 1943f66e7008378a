"""Schemas of requests and responses, for validation and for the documentation under /docs."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    model_validator,
)

from model.engine.config import MAX_SEED, RANGES

from .api_errors import ApiError
from .explanation_schemas import Explain, ExplanationInfo
from .messages import Message

IMAGE_NAMES = frozenset(
    f"{prefix}{name}{suffix}"
    for name in ("image", "images", "img", "imgs", "picture", "pictures", "photo", "pic")
    for prefix in ("", "input_", "base64_")
    for suffix in ("", "_url", "_urls", "_path", "_file", "_base64", "_b64", "_data")
) - {"image"}
MAX_KEYS = 100  # maximum number of unknown keys of a request that are compared; it may have thousands
SHORT_NAME_LENGTH = 4  # letters; many unrelated words are within two edits of such a name
EMPTY_VALUES: tuple[object, ...] = (None, "", [], {})


def check_key_spelling(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Reject unknown keys of a request that misspell a known key or are other names of the image.

    A misspelling differs in case, or by up to two edits; an edit inserts, deletes or replaces a letter, or swaps two
    neighbors. For short names (`text`, `seed`, `top_k`), only one edit counts, and only if the request lacks the name
    itself, because many unrelated words are near. A key whose value is null or empty is ignored.

    Raises:
        ApiError: 400; the message names both the unknown and the known key.
    """
    names = tuple(known)
    for key in islice((key for key in given if key not in names), MAX_KEYS):
        if given[key] in EMPTY_VALUES:
            continue
        lower = key.lower().replace("-", "_")
        if lower in IMAGE_NAMES:
            raise _unknown_key_error(key, "image", "holds the image, as base64 text or a data URL")
        near = next(
            (name for name in names if is_misspelling(lower, name) and (not is_short_name(name) or name not in given)),
            None,
        )
        if near is not None:
            raise _unknown_key_error(key, near, "may be meant")


def is_short_name(name: str) -> bool:
    """Return whether a name is so short that many unrelated words are within two edits."""
    return len(name.replace("_", "")) <= SHORT_NAME_LENGTH


def is_misspelling(key: str, name: str) -> bool:
    """Return whether a key is within one or two edits of a known name."""
    return edit_distance(key, name, 1 if is_short_name(name) else 2) is not None


def edit_distance(first: str, second: str, limit: int) -> int | None:
    """Return the number of edits between two words, None if there are more than `limit`.

    An edit inserts, deletes or replaces a letter, or swaps two neighbors: the optimal string alignment distance, after
    Damerau (1964).
    """
    if abs(len(first) - len(second)) > limit:
        return None
    before, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(second, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1] if row[-1] <= limit else None


def _unknown_key_error(key: str, name: str, reason: str) -> ApiError:
    message = f"The key {key[:100]!r} is not known: {name!r} {reason}. Rename it, or leave it out."
    return ApiError(400, message, code="unknown_key", param=key[:100])


MAX_STOP_STRINGS = 4
MAX_STOP_LENGTH = 256
# A request may have twice as many messages. The setting max_history limits the turns of its history.
MAX_TURNS = 1000
MAX_INTEGER = 2**31 - 1
UNLIMITED = -1


def replace_unlimited(instead: int | None, schema: Any) -> BeforeValidator:
    """Return a validator that replaces -1 by `instead`: clients of other servers send -1 for no limit or no seed.

    Args:
        schema: the type of all other values, for the OpenAPI document.
    """

    def replace(value: Any) -> Any:
        return instead if value == UNLIMITED else value

    return BeforeValidator(replace, json_schema_input_type=schema | Literal[UNLIMITED] | None)


def reject_boolean(value: Any) -> Any:
    """Convert a boolean to a string, which no number equals: Python's True equals 1."""
    return str(value) if isinstance(value, bool) else value


def to_stop_list(value: Any) -> Any:
    """Convert a single stop string to a list."""
    return [value] if isinstance(value, str) else value


def drop_empty(stops: list[str] | None) -> list[str] | None:
    """Return the stop strings without empty ones, which have no effect."""
    return stops and [stop for stop in stops if stop]


def bounds_of(name: str) -> Any:
    """Return the engine's bounds of a sampling parameter, as the annotation of a field."""
    valid = RANGES[name]
    return Field(ge=valid.least, le=MAX_INTEGER if valid.most is None else valid.most)


StrictInteger = Annotated[int, Strict()]
Number = Annotated[float, Field(allow_inf_nan=False)]
Temperature = Annotated[
    Number | None, bounds_of("temperature"), Field(description="0 always takes the most likely token")
]
TopP = Annotated[Number | None, bounds_of("top_p"), Field(description="1 for all tokens")]
_TopK = Annotated[StrictInteger, bounds_of("top_k")]
TopK = Annotated[_TopK | None, replace_unlimited(0, _TopK), Field(description="0 or -1 for all tokens")]
Penalty = Annotated[Number | None, bounds_of("repetition_penalty"), Field(description="1 for none")]
_Tokens = Annotated[StrictInteger, bounds_of("max_length")]
MaxTokens = Annotated[_Tokens | None, replace_unlimited(None, _Tokens), Field(description="-1 for the default")]
MinTokens = Annotated[
    StrictInteger | None, bounds_of("min_length"), Field(description="tokens of prompt and answer together")
]
_Seed = Annotated[StrictInteger, Field(ge=0, le=MAX_SEED)]
Seed = Annotated[_Seed | None, replace_unlimited(None, _Seed), Field(description="-1 for a random seed")]
_Stop = Annotated[str, Len(0, MAX_STOP_LENGTH)]
_Stops = Annotated[list[_Stop], Len(0, MAX_STOP_STRINGS)]
Stops = Annotated[
    _Stops | None,
    BeforeValidator(to_stop_list, json_schema_input_type=_Stop | _Stops | None),
    AfterValidator(drop_empty),
]
TurnPair = Annotated[list[str], Field(min_length=2, max_length=2, fail_fast=True)]
_TEXT = {"type": "string"}
_TURN_PAIR = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
_MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": _TEXT},
    "required": ["role", "content"],
}
# `model.prompt.to_turns` validates it: pydantic would report an error for each alternative of a union.
History = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"anyOf": [_TURN_PAIR, _MESSAGE]}}, {"type": "null"}]}),
    Field(
        description="earlier turns, oldest first: [question, answer] pairs, or alternating user and assistant messages"
    ),
]


class StrictModel(BaseModel):
    """Base of request schemas: types are strict, so "1" is not a number and 1 is not a text."""

    model_config = ConfigDict(strict=True, extra="ignore")


class SamplingParameters(StrictModel):
    """The parameters of a request that are the ones of `model.GenerationConfig`."""

    max_length: MaxTokens = Field(None, description="tokens of prompt and answer together; -1 for the default")
    min_length: MinTokens = None
    temperature: Temperature = None
    top_p: TopP = None
    top_k: TopK = None
    repetition_penalty: Penalty = None
    seed: Seed = None


SETTINGS = tuple(SamplingParameters.model_fields)


class NativeRequest(SamplingParameters):
    """A question in the original's format. Omitted settings have the terminal program's defaults.

    Unknown keys are ignored, except misspelled keys (`imgae`, `max_lenght`) and other names of the image (`images`,
    `img`, `image_url`), which are rejected.
    """

    text: str = Field(description="the question; its language determines the prompt's language")
    image: str | None = Field(
        None, description="base64 text, with or without line breaks, or a data URL; omit it to chat without an image"
    )
    history: History = None
    max_new_tokens: MaxTokens = None
    num_beams: Annotated[Literal[1] | None, BeforeValidator(reject_boolean)] = Field(
        None, description="only 1: beam search is not supported"
    )
    stream: bool | None = Field(None, description="send the answer as server-sent events while it is generated")
    explain: Explain = None

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, data: Any) -> Any:
        """Reject misspelled keys before validation, which drops unknown keys."""
        if isinstance(data, dict):
            check_key_spelling(data, cls.model_fields)
        return data


class NativeAnswer(BaseModel):
    """An answer in the original's format; `response` and `result` are equal.

    `explanation` is present if the request asks for it, and null for an answer that is empty or too long.
    """

    response: str
    result: str
    history: list[TurnPair]
    status: int
    time: str
    explanation: ExplanationInfo | None = None


class NativeError(BaseModel):
    """The reason why a request failed."""

    error: str
    status: int
    time: str
    request_id: str


class StreamOptions(StrictModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = Field(None, description="send the token counts after the answer")
    continuous_usage_stats: bool | None = Field(
        None, description="extension of the protocol; with include_usage, each chunk has the counts so far"
    )


class CompletionRequest(SamplingParameters):
    """A request for chat completions. Parameters that are not listed are rejected, not ignored.

    Extensions of the protocol: `top_k`, `repetition_penalty`, `min_length`, `max_length` and `explain`.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(description="the id from GET /v1/models")
    messages: Annotated[list[Message], Field(max_length=2 * MAX_TURNS, fail_fast=True)] = Field(
        description="System messages are put before the first question. The conversation can have one image; the "
        "prompt begins with it, whichever turn contains it."
    )
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    n: Annotated[StrictInteger | None, Field(ge=1, le=128)] = None
    stop: Stops = Field(None, description="strings before which an answer ends; empty ones are ignored")
    seed: Seed = Field(None, description="seed of the first answer; each further one adds 1; -1 for a random seed")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(None, description="return the log-probability of each token of an answer")
    top_logprobs: Annotated[StrictInteger | None, bounds_of("top_logprobs")] = Field(
        None, description="with logprobs, most likely tokens to return for each token, with their log-probabilities"
    )
    explain: Explain = None
    user: str | None = Field(None, description="no effect")


class UsageInfo(BaseModel):
    """Token counts of the prompt, including the image, and of the answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class TopLogprob(BaseModel):
    """A token with its log-probability, natural logarithm, in the softmax of the logits.

    Temperature, top-k, top-p and penalties do not change it.
    """

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of an answer, with the most likely tokens at its position."""

    top_logprobs: list[TopLogprob]


class AnswerLogprobs(BaseModel):
    """The log-probabilities of an answer's tokens, without the end token."""

    content: list[TokenLogprob]
    refusal: None = None


class Choice(BaseModel):
    """One answer.

    `explanation` is present if the request asks for it, and null for an answer that is empty or too long.
    """

    index: int
    message: Answer
    logprobs: AnswerLogprobs | None = None
    finish_reason: Literal["stop", "length"]
    explanation: ExplanationInfo | None = None


class Completion(BaseModel):
    """The answers to a question."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageInfo


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str | None = Field(description="what the model knows; null while it loads or if unknown")


class Models(BaseModel):
    """The served models."""

    object: Literal["list"]
    data: list[Model]


class ErrorDetail(BaseModel):
    """An error: `message` is for people, all further fields are for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProtocolError(BaseModel):
    """The reason why a request failed."""

    error: ErrorDetail


class Health(BaseModel):
    """The server's state."""

    status: str
