"""Define what requests and responses contain, as FastAPI checks it and documents it under /docs.

Ranges that the engine checks stand here for the reader of the documentation; a test holds that both say the same.
"""

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

from .api_errors import ApiError
from .content import CONTENT_SCHEMA

IMAGE_NAMES = frozenset(
    f"{prefix}{name}{suffix}"
    for name in ("image", "images", "img", "imgs", "picture", "pictures", "photo", "pic")
    for prefix in ("", "input_", "base64_")
    for suffix in ("", "_url", "_urls", "_path", "_file", "_base64", "_b64", "_data")
) - {"image"}
MAX_KEYS = 100  # that are looked at; a request may have thousands
SHORT_NAME_LENGTH = 4  # letters of a name, of which many other words differ by two
EMPTY_VALUES: tuple[object, ...] = (None, "", [], {})


def check_key_spelling(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check that no unknown key of a request is nearly a known one, or another name of the image.

    Nearly means: in other case, or up to two letters away, a letter being inserted, left out, replaced, or swapped with
    its neighbour. Names of up to four letters (`text`, `seed`, `top_k`) have many neighbours, so that only one letter
    counts there, and only where the name itself is absent. A key whose value is null or empty is ignored.

    Raises:
        Refusal: 400; it names the key and the one that is known.
    """
    names = tuple(known)
    for key in islice((key for key in given if key not in names), MAX_KEYS):
        if given[key] in EMPTY_VALUES:
            continue
        lower = key.lower().replace("-", "_")
        if lower in IMAGE_NAMES:
            raise _unknown_key_error(key, "image", "holds the picture, as base64 text or a data URL")
        near = next(
            (name for name in names if is_misspelling(lower, name) and (not is_short_name(name) or name not in given)),
            None,
        )
        if near is not None:
            raise _unknown_key_error(key, near, "is perhaps meant")


def is_short_name(name: str) -> bool:
    """Whether a name has so few letters that unrelated words are two letters away."""
    return len(name.replace("_", "")) <= SHORT_NAME_LENGTH


def is_misspelling(key: str, name: str) -> bool:
    """Whether a key is a known name with one or two letters wrong."""
    return edit_distance(key, name, 1 if is_short_name(name) else 2) is not None


def edit_distance(first: str, second: str, limit: int) -> int | None:
    """Return how many letters to insert, delete, replace or swap with their neighbours make two words equal.

    None if it is more than `limit`. Optimal string alignment, after Damerau (1964).
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
MAX_TURNS = 1000  # of a history, and as many messages of each side; the settings may allow fewer
MAX_INTEGER = 2**31 - 1
MAX_SEED = 2**63 - 1
UNLIMITED = -1


def replace_unlimited(instead: int | None, schema: Any) -> BeforeValidator:
    """Return a validator that reads -1, by which other servers' clients ask for no limit or seed, as `instead`.

    Args:
        schema: the type of all other values, for the documentation.
    """

    def replace(value: Any) -> Any:
        return instead if value == UNLIMITED else value

    return BeforeValidator(replace, json_schema_input_type=schema | Literal[UNLIMITED] | None)


def to_stop_list(value: Any) -> Any:
    """Return a single stop string as a list."""
    return [value] if isinstance(value, str) else value


def drop_empty(stops: list[str] | None) -> list[str] | None:
    """Return the stop strings that are not empty; an empty one asks for nothing."""
    return stops and [stop for stop in stops if stop]


StrictInteger = Annotated[int, Strict()]
Number = Annotated[float, Field(allow_inf_nan=False)]
Temperature = Annotated[Number | None, Field(ge=0, le=100, description="0 always takes the most likely token")]
TopP = Annotated[Number | None, Field(ge=0, le=1, description="1 for all tokens")]
_TopK = Annotated[StrictInteger, Field(ge=0, le=MAX_INTEGER)]
TopK = Annotated[_TopK | None, replace_unlimited(0, _TopK), Field(description="0 or -1 for all tokens")]
Penalty = Annotated[Number | None, Field(ge=1, le=100, description="1 for none")]
_Tokens = Annotated[StrictInteger, Field(ge=1, le=MAX_INTEGER)]
MaxTokens = Annotated[_Tokens | None, replace_unlimited(None, _Tokens), Field(description="-1 is read as left out")]
MinTokens = Annotated[StrictInteger | None, Field(ge=0, le=MAX_INTEGER, description="prompt and answer together")]
_Seed = Annotated[StrictInteger, Field(ge=0, le=MAX_SEED)]
Seed = Annotated[_Seed | None, replace_unlimited(None, _Seed), Field(description="-1 is read as left out")]
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
# `model.prompt.to_turns` reads it and names what is wrong; pydantic would complain of each form in turn.
History = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"anyOf": [_TURN_PAIR, _MESSAGE]}}, {"type": "null"}]}),
    Field(
        description="earlier rounds, oldest first, as [question, answer], or as messages of user and assistant in turn"
    ),
]
# `visualglm.server.messages` reads it and names what is wrong.
Content = Annotated[
    Any,
    WithJsonSchema(CONTENT_SCHEMA),
    Field(description="a text or a list of parts; an image's URL is a data URL, or http(s) where the server allows it"),
]


class StrictModel(BaseModel):
    """A part of a request, of which "1" is no number and 1 no text."""

    model_config = ConfigDict(strict=True, extra="ignore")


class NativeRequest(StrictModel):
    """A question in the original's way. Settings left out are the terminal program's; other keys are ignored.

    Keys that are nearly one of these (`imgae`, `max_lenght`) or another name of the image (`images`, `img`,
    `image_url`) are refused.
    """

    text: str = Field(description="the question; its language decides that of the prompt")
    image: str | None = Field(
        None, description="base64 text, with line breaks or not, or a data URL; none to talk without"
    )
    history: History = None
    max_length: MaxTokens = None
    max_new_tokens: MaxTokens = None
    min_length: MinTokens = None
    top_p: TopP = None
    top_k: TopK = None
    temperature: Temperature = None
    repetition_penalty: Penalty = None
    seed: Seed = None
    num_beams: Literal[1] | None = Field(None, description="answers are sampled; there is no beam search")
    stream: bool | None = Field(None, description="send the answer as server-sent events while it is written")

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, data: Any) -> Any:
        """Refuse misspelled keys here, where all keys are seen, so that none is kept."""
        if isinstance(data, dict):
            check_key_spelling(data, cls.model_fields)
        return data


class NativeAnswer(BaseModel):
    """An answer in the original's way; `response` and `result` are the same."""

    response: str
    result: str
    history: list[TurnPair]
    status: int
    time: str


class NativeError(BaseModel):
    """Why a question was not answered."""

    error: str
    status: int
    time: str
    request_id: str


class Message(StrictModel):
    """What one side said."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = None


class StreamOptions(StrictModel):
    """How a streamed answer is sent."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = Field(None, description="send the token counts after the answer")
    continuous_usage_stats: bool | None = Field(
        None, description="not of the protocol; with include_usage, send the counts so far with each part"
    )


class CompletionRequest(StrictModel):
    """Chat completions. What is not listed is refused by its name, not ignored."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(description="as GET /v1/models names it")
    messages: Annotated[list[Message], Field(max_length=2 * MAX_TURNS, fail_fast=True)] = Field(
        description="System messages are put before the first question. There may be one picture, which stands at the "
        "prompt's start whatever turn it is in."
    )
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    temperature: Temperature = None
    top_p: TopP = None
    n: Annotated[StrictInteger | None, Field(ge=1, le=128)] = None
    stop: Stops = Field(None, description="strings before which an answer ends; an empty one is left out")
    seed: Seed = Field(
        None, description="the answers to one question have this seed and the ones after it; -1 is read as left out"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="makes no difference")
    top_k: TopK = Field(None, description="not of the protocol; 0 or -1 for all tokens")
    repetition_penalty: Penalty = Field(None, description="not of the protocol; 1 for none")
    min_length: MinTokens = Field(None, description="not of the protocol; tokens of prompt and answer together")
    max_length: MaxTokens = Field(None, description="not of the protocol; tokens of prompt and answer together")


class UsageInfo(BaseModel):
    """Tokens of a prompt, the picture's included, and of its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: Answer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """The answers to a question."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageInfo


class Model(BaseModel):
    """A model that answers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str | None = Field(description="what the model knows; null while it loads or if it does not say")


class Models(BaseModel):
    """The models that answer."""

    object: Literal["list"]
    data: list[Model]


class ErrorDetail(BaseModel):
    """What is wrong, for a person in `message` and for programs in the others."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProtocolError(BaseModel):
    """Why a question was not answered."""

    error: ErrorDetail


class Health(BaseModel):
    """How the server is."""

    status: str
