"""Provide the original's `chat` and its streaming form; `chat_batch` and `score_batch` for many questions."""

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
from .scoring import AnswerScore

History = list[tuple[str, str]]
AnyHistory = Sequence[Sequence[str] | Mapping[str, Any] | Turn] | None
Result = tuple[str, History, torch.Tensor | None]
P = ParamSpec("P")
T = TypeVar("T")


def make_conversation(model: Network, image: Any, query: str, history: AnyHistory, english: English) -> Conversation:
    """Build the conversation that precedes `query`; see `stream_chat` for the arguments.

    Raises:
        QuestionError: the question is not text, or the history has an unknown format.
    """
    turns = to_turns(history)
    language = choose_language(english, getattr(model, "prompt_language", None), query, turns)
    return Conversation(image, turns, language)


def start_conversation(
    image_path: str | None,
    model: Network,
    tokenizer: Tokenizer,
    query: str,
    history: AnyHistory,
    image: Any,
    english: English,
) -> tuple[SatChatModel, Conversation]:
    """Return a chat model, and the conversation that precedes `query`; see `stream_chat` for the arguments.

    Raises:
        ImageError: there are two images, or the image cannot be loaded.
        QuestionError: the question is not text, or the history has an unknown format.
    """
    if image_path and image is not None:
        raise ImageError("Give either image_path or image, not both.")
    conversation = make_conversation(model, None, query, history, english)
    conversation.image = load_image(image_path) if image_path else image
    return SatChatModel(model, tokenizer), conversation


def to_pairs(turns: Sequence[Turn]) -> History:
    """Return turns as (question, answer) pairs."""
    return [(turn.question, turn.answer) for turn in turns]


def dropped_turns_notice(count: int) -> str:
    """Return the notice that the `count` oldest turns were dropped from the prompt."""
    turns = "turn" if count == 1 else "turns"
    return f"The conversation has grown past max_length: its oldest {count} {turns} are no longer seen."


def to_ranges(invalid_slices: Sequence[slice | int]) -> tuple[tuple[int, int], ...]:
    """Convert the original's `invalid_slices`, slices or single token ids, to half-open ranges."""
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
    """Answer `query` about an image, with the original's arguments; yield the growing result.

    Args:
        image_path: a path or an http(s) URL; None or "" to chat without an image, or if `image` is given.
        model: a VisualGLMModel.
        tokenizer: from `load_tokenizer`.
        query: the question.
        history: earlier turns as (question, answer) or as messages {"role": ..., "content": ...}; None if there are
            none.
        image: a PIL image, or the pixels that an earlier call returned.
        max_length, top_p, top_k, temperature, repetition_penalty, seed, min_length: see `GenerationConfig`; None
            takes the default of the preset `CHAT`.
        invalid_slices: token ids, or slices of them, that must not be generated.
        english: True for a prompt with "Q:" and "A:", False for the Chinese markers, None for the language of the
            question. By default `prompt_language` of the model's configuration decides: "en", "zh" or "auto"; if it
            is absent, the prompt is Chinese.

    Yields:
        The answer so far, the history including this turn, and the image's pixels [1, 3, S, S] for the next call.

    Raises:
        VisualGLMError: the image, a setting, the question or the history cannot be used.
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
    chat_model, conversation = start_conversation(image_path, model, tokenizer, query, history, image, english)
    if conversation.image is not None:
        conversation.image = chat_model.image_cache.to_pixels(conversation.image)
    earlier, response = to_pairs(conversation.turns), ""
    for chunk in chat_model.stream_answer(conversation, query, config):
        response += chunk.text
        if chunk.finish_reason is not None and chunk.usage is not None and chunk.usage.dropped_turns:
            warnings.warn(dropped_turns_notice(chunk.usage.dropped_turns), stacklevel=3)
        if chunk.text or chunk.finish_reason is not None:
            yield response, [*earlier, (query, response)], conversation.image


def drain_stream(stream: Callable[P, Iterator[T]], name: str, summary: str) -> Callable[P, T]:
    """Return a blocking function that takes the arguments of `stream` and returns its last item."""

    @functools.wraps(stream)
    def drain(*args: P.args, **kwargs: P.kwargs) -> T:
        return deque(stream(*args, **kwargs), maxlen=1)[0]

    drain.__name__ = drain.__qualname__ = name
    drain.__doc__ = summary
    return drain


# The blocking call drains the stream, so that there is one loop and one list of arguments.
chat = drain_stream(  # public name
    stream_chat,
    "chat",
    """Answer a question about an image, with the arguments and errors of `stream_chat`.

    Returns:
        The answer, the history including this turn, and the image's pixels [1, 3, S, S] for the next call.
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
    """Answer many questions in one batch, with the same results as separate calls of `chat`.

    Args:
        images: for each question a path, a URL, a PIL image, pixels [1, 3, S, S], or None to chat without an image.
        model: a VisualGLMModel.
        tokenizer: from `load_tokenizer`.
        queries: the questions; a single string is asked about every image.
        histories: the history of each question, in the formats of `stream_chat`; None if there are none.
        english, invalid_slices: see `stream_chat`.
        max_batch_size: maximum number of answers generated at the same time.
        settings: see `GenerationConfig`; the defaults are those of the preset `CHAT`.

    Returns:
        For each question its answer and the history including this turn, or the error of this question.

    Raises:
        SettingError: an argument is not a list, the lists differ in length, or a setting is invalid.
    """
    conversations = _to_conversations(model, images, queries, histories, english)
    config = CHAT.replace(**{"forbidden_ids": to_ranges(invalid_slices), **settings})
    valid = [one for one in conversations if not isinstance(one, QuestionError)]
    answers = iter(SatChatModel(model, tokenizer).answer_batch(valid, config, max_batch_size))
    return [one if isinstance(one, QuestionError) else _result(*one, next(answers)) for one in conversations]


def score_batch(
    images: Sequence[str | Image.Image | torch.Tensor | None],
    model: Network,
    tokenizer: Tokenizer,
    queries: Sequence[str] | str,
    answers: Sequence[str],
    histories: Sequence[AnyHistory] | None = None,
    *,
    english: English = AS_CONFIGURED,
    max_batch_size: int = 16,
) -> list[AnswerScore | VisualGLMError]:
    """Compute how likely given answers are, without generating any: to choose among them, for example.

    Args:
        images, model, tokenizer, queries, histories, english, max_batch_size: see `chat_batch`.
        answers: for each question the answer to score. To score several answers, repeat the question.

    Returns:
        For each question the log-probabilities of its answer's tokens, or the error of this question.

    Raises:
        SettingError: an argument is not a list, or the lists differ in length.
        QuestionError: an answer is not text.
    """
    require_list("answers", answers)
    conversations = _to_conversations(model, images, queries, histories, english)
    if len(answers) != len(conversations):
        raise SettingError(f"There are {len(conversations)} questions, but {len(answers)} answers.")
    pairs = zip(conversations, (require_text(answer, "answer") for answer in answers), strict=True)
    valid = [(*one, answer) for one, answer in pairs if not isinstance(one, QuestionError)]
    scores = iter(SatChatModel(model, tokenizer).score_answers(valid, max_batch_size))
    return [one if isinstance(one, QuestionError) else next(scores) for one in conversations]


def require_list(name: str, value: Any) -> None:
    """Raise SettingError unless `value` is a list; a string would be iterated letter by letter."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        kind = type(value).__name__
        raise SettingError(f"{name} is of type {kind}; it should be a list with an entry for each question.")


def _to_conversations(
    model: Network,
    images: Sequence[Any],
    queries: Sequence[str] | str,
    histories: Sequence[AnyHistory] | None,
    english: English,
) -> list[tuple[Conversation, str] | QuestionError]:
    """Return the conversation and the question of each entry, or the error if they cannot be used.

    Raises:
        SettingError: an argument is not a list, or the lists differ in length.
    """
    require_list("images", images)
    queries = [queries] * len(images) if isinstance(queries, str) else queries
    require_list("queries", queries)
    histories = [None] * len(queries) if histories is None else histories
    require_list("histories", histories)
    if not len(images) == len(queries) == len(histories):
        raise SettingError(f"There are {len(images)} images, {len(queries)} queries and {len(histories)} histories.")
    given = zip(images, queries, histories, strict=True)
    return [_to_conversation(model, image, query, history, english) for image, query, history in given]


def _to_conversation(
    model: Network, image: Any, query: str, history: AnyHistory, english: English
) -> tuple[Conversation, str] | QuestionError:
    """Return the conversation and the question, or the error if they cannot be used."""
    given_image = image or None if isinstance(image, str) else image
    try:
        return make_conversation(model, given_image, require_text(query, "question"), history, english), query
    except QuestionError as error:
        return error


def _result(
    conversation: Conversation, query: str, answer: str | VisualGLMError
) -> tuple[str, History] | VisualGLMError:
    """Return the answer and the history including it; an error is returned unchanged."""
    if isinstance(answer, VisualGLMError):
        return answer
    return answer, [*to_pairs(conversation.turns), (query, answer)]
