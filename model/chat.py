"""The original's calls: a picture and a question -> an answer, whole or as it is written."""

import functools
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from PIL import Image

from .aliases import former_keywords
from .chat_model import SatChatModel
from .engine import CHAT
from .engine.network import Network
from .errors import ImageError, QuestionError, SettingError, VisualGLMError
from .images.preprocess import load_image
from .prompt import AS_CONFIGURED, Conversation, English, Tokenizer, Turn, choose_language, require_text, to_turns

History = list[tuple[str, str]]
AnyHistory = Sequence[Sequence[str] | Mapping[str, Any] | Turn] | None
Result = tuple[str, History, torch.Tensor | None]
P = ParamSpec("P")
T = TypeVar("T")


def make_conversation(model: Network, image: Any, query: str, history: AnyHistory, english: English) -> Conversation:
    """Return the conversation in which `model` is asked `query`; see `stream_chat` for the arguments.

    Raises:
        QuestionError: the question is not text, or the history has an unknown form.
    """
    turns = to_turns(history)
    language = choose_language(english, getattr(model, "prompt_language", None), query, turns)
    return Conversation(image, turns, language)


def to_pairs(turns: Sequence[Turn]) -> History:
    """Return turns as (question, answer) pairs."""
    return [(turn.question, turn.answer) for turn in turns]


def dropped_turns_notice(count: int) -> str:
    """Say that the oldest turns did not fit any more."""
    turns = "turn" if count == 1 else "turns"
    return f"The conversation has grown past max_length: its oldest {count} {turns} are no longer seen."


def to_ranges(invalid_slices: Sequence[slice | int]) -> tuple[tuple[int, int], ...]:
    """Turn the original's `invalid_slices`, slices or single ids, into half-open ranges of ids."""
    return tuple(
        (item.start or 0, sys.maxsize if item.stop is None else item.stop)
        if isinstance(item, slice)
        else (item, item + 1)
        for item in invalid_slices
    )


def stream_chat(
    image_path: str | None,
    model: Network,
    tokenizer: Tokenizer,
    query: str,
    history: AnyHistory = None,
    image: Image.Image | torch.Tensor | None = None,
    max_length: int | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    repetition_penalty: float | None = None,
    invalid_slices: Sequence[slice | int] = (),
    english: English = AS_CONFIGURED,
    seed: int | None = None,
    min_length: int | None = None,
) -> Iterator[Result]:
    """Answer `query` about a picture, with the original's arguments; yield the result as it grows.

    Args:
        image_path: a path or an http(s) URL; None or "" for a talk without a picture, or with `image`.
        model: a VisualGLMModel.
        tokenizer: from `load_tokenizer`.
        query: the question.
        history: earlier rounds as (question, answer), or as messages {"role": ..., "content": ...}; None for none.
        image: a PIL picture, or the pixels that an earlier round returned.
        max_length, top_p, top_k, temperature, repetition_penalty, seed, min_length: see `GenerationConfig`, whose
            defaults they have.
        invalid_slices: token ids, or slices of them, never to answer with.
        english: True to ask with "Q:" and "A:", False with the Chinese marks, None to follow the question. If not
            given, `prompt_language` of the model's configuration decides: "en", "zh", "auto"; if absent, Chinese.

    Yields:
        The answer so far, the history with this round, and the picture's pixels [1, 3, S, S] for the next round.

    Raises:
        VisualGLMError: the picture, a setting, the question or the history cannot be used.
    """
    config = CHAT.replace(
        max_length=max_length,
        top_p=top_p,
        top_k=top_k,
        temperature=temperature,
        repetition_penalty=repetition_penalty,
        seed=seed,
        min_length=min_length,
        forbidden_ids=to_ranges(invalid_slices),
    )
    if image_path and image is not None:
        raise ImageError("Give either image_path or image, not both.")
    conversation = make_conversation(model, None, query, history, english)
    chat_model = SatChatModel(model, tokenizer)
    given_image = load_image(image_path) if image_path else image
    conversation.image = None if given_image is None else chat_model.image_cache.to_pixels(given_image)
    earlier, response = to_pairs(conversation.turns), ""
    for chunk in chat_model.stream_answer(conversation, query, config):
        response += chunk.text
        if chunk.finish_reason is not None and chunk.usage is not None and chunk.usage.dropped_turns:
            warnings.warn(dropped_turns_notice(chunk.usage.dropped_turns), stacklevel=3)
        if chunk.text or chunk.finish_reason is not None:
            yield response, [*earlier, (query, response)], conversation.image


def drain_stream(stream: Callable[P, Iterator[T]], name: str, summary: str) -> Callable[P, T]:
    """Return a function with the arguments of `stream` that returns the last of what it yields."""

    @functools.wraps(stream)
    def drain(*args: P.args, **kwargs: P.kwargs) -> T:
        return deque(stream(*args, **kwargs), maxlen=1)[0]

    drain.__name__ = drain.__qualname__ = name
    drain.__doc__ = summary
    return drain


# There is one loop and one list of arguments: the blocking call drains the stream.
chat = drain_stream(  # public name
    stream_chat,
    "chat",
    """Answer a question about a picture. The arguments and errors are those of `stream_chat`.

    Returns:
        The answer, the history with this round, and the picture's pixels [1, 3, S, S] for the next round.
    """,
)


@former_keywords(rows="max_batch_size")
def chat_batch(
    images: Sequence[str | Image.Image | torch.Tensor | None],
    model: Network,
    tokenizer: Tokenizer,
    queries: Sequence[str] | str,
    histories: Sequence[AnyHistory] | None = None,
    *,
    english: English = AS_CONFIGURED,
    invalid_slices: Sequence[slice | int] = (),
    max_batch_size: int = 16,
    **settings: Any,
) -> list[tuple[str, History] | VisualGLMError]:
    """Answer many questions side by side, each as `chat` would answer it alone.

    Args:
        images: for each question a path, a URL, a PIL picture, pixels [1, 3, S, S], or None for a talk without one.
        model: a VisualGLMModel.
        tokenizer: from `load_tokenizer`.
        queries: the questions; a single text is asked about each image.
        histories: earlier rounds of each, in the forms that `stream_chat` takes; None for none.
        english, invalid_slices: as of `stream_chat`.
        rows: how many are answered at a time.
        settings: as of `GenerationConfig`, whose defaults they have.

    Returns:
        For each question its answer and the history with this round, or the error that it alone has met.

    Raises:
        SettingError: the lists differ in length or are not lists, or a setting makes no sense.
    """
    require_list("images", images)
    queries = [queries] * len(images) if isinstance(queries, str) else queries
    require_list("queries", queries)
    histories = [None] * len(queries) if histories is None else histories
    require_list("histories", histories)
    if not len(images) == len(queries) == len(histories):
        raise SettingError(f"There are {len(images)} images, {len(queries)} queries and {len(histories)} histories.")
    given = zip(images, queries, histories, strict=True)
    conversations = [_to_conversation(model, image, query, history, english) for image, query, history in given]
    config = CHAT.replace(**{"forbidden_ids": to_ranges(invalid_slices), **settings})
    valid = [one for one in conversations if not isinstance(one, QuestionError)]
    answers = iter(SatChatModel(model, tokenizer).answer_batch(valid, config, max_batch_size))
    return [one if isinstance(one, QuestionError) else _result(*one, next(answers)) for one in conversations]


def require_list(name: str, value: Any) -> None:
    """Raise SettingError for a single value in the place of a list, so that a path is not taken for its letters."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        kind = type(value).__name__
        raise SettingError(f"{name} is of type {kind}; it should be a list with an entry for each question.")


def _to_conversation(
    model: Network, image: Any, query: str, history: AnyHistory, english: English
) -> tuple[Conversation, str] | QuestionError:
    """Return a question in its conversation, or why it cannot be asked."""
    given_image = image or None if isinstance(image, str) else image
    try:
        return make_conversation(model, given_image, require_text(query, "question"), history, english), query
    except QuestionError as error:
        return error


def _result(
    conversation: Conversation, query: str, answer: str | VisualGLMError
) -> tuple[str, History] | VisualGLMError:
    """Return the answer with its history, or the error itself."""
    if isinstance(answer, VisualGLMError):
        return answer
    return answer, [*to_pairs(conversation.turns), (query, answer)]
