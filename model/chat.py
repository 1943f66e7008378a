"""The original's calls: a picture and a question -> an answer, whole or as it is written."""

import functools
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from PIL import Image

from .chat_model import SatChatModel
from .errors import ImageError, SettingError, VisualGLMError
from .generation import CHAT, GenerationConfig
from .image import load_image
from .prompt import CHINESE, ENGLISH, Conversation, Turn

History = list[tuple[str, str]]
Result = tuple[str, History, torch.Tensor | None]
P = ParamSpec("P")
T = TypeVar("T")


class _Round:
    """One round in the way of the original's `chat()`: its arguments understood, its results as they grow."""

    def __init__(
        self,
        image_path: str | None,
        model: Any,
        tokenizer: Any,
        history: History | None,
        image: Image.Image | torch.Tensor | None,
        english: bool,
    ) -> None:
        if image_path and image is not None:
            raise ImageError("Give either image_path or image, not both.")
        self.chat_model = SatChatModel(model, tokenizer)
        self.history = list(history or [])
        picture = load_image(image_path) if image_path else image
        self.pixels = None if picture is None else self.chat_model.pictures.to_pixels(picture)
        turns = [Turn(question, answer) for question, answer in self.history]
        self.conversation = Conversation(self.pixels, turns, ENGLISH if english else CHINESE)

    def stream(self, query: str, config: GenerationConfig) -> Iterator[Result]:
        response = ""
        for piece in self.chat_model.stream_answer(self.conversation, query, config):
            response += piece.text
            if piece.usage is not None and piece.usage.dropped_turns:
                warnings.warn(dropped_notice(piece.usage.dropped_turns), stacklevel=4)
            if piece.text or piece.finish_reason is not None:
                yield response, [*self.history, (query, response)], self.pixels


def dropped_notice(count: int) -> str:
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
    model: Any,
    tokenizer: Any,
    query: str,
    history: History | None = None,
    image: Image.Image | torch.Tensor | None = None,
    max_length: int | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    repetition_penalty: float | None = None,
    invalid_slices: Sequence[slice | int] = (),
    english: bool = False,
    seed: int | None = None,
    min_length: int | None = None,
) -> Iterator[Result]:
    """Answer `query` about a picture, with the original's arguments; yield the result as it grows.

    Args:
        image_path: a path or an http(s) URL; None or "" for a talk without a picture, or with `image`.
        model: a VisualGLMModel.
        tokenizer: from `load_tokenizer`.
        query: the question.
        history: earlier rounds as (question, answer).
        image: a PIL picture, or the pixels that an earlier round returned.
        max_length, top_p, top_k, temperature, repetition_penalty, seed, min_length: see `GenerationConfig`, whose
            defaults they have.
        invalid_slices: token ids, or slices of them, never to answer with.
        english: ask with "Q:" and "A:" instead of the Chinese marks.

    Yields:
        The answer so far, the history with this round, and the picture's pixels [1, 3, S, S] for the next round.

    Raises:
        VisualGLMError: the picture, a setting or the question cannot be used.
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
    yield from _Round(image_path, model, tokenizer, history, image, english).stream(query, config)


def last_of(stream: Callable[P, Iterator[T]], name: str, summary: str) -> Callable[P, T]:
    """Return a function with the arguments of `stream` that returns the last of what it yields."""

    @functools.wraps(stream)
    def drain(*args: P.args, **kwargs: P.kwargs) -> T:
        return deque(stream(*args, **kwargs), maxlen=1)[0]

    drain.__name__ = drain.__qualname__ = name
    drain.__doc__ = summary
    return drain


# There is one loop and one list of arguments: the blocking call drains the stream.
chat = last_of(  # public name
    stream_chat,
    "chat",
    """Answer a question about a picture. The arguments and errors are those of `stream_chat`.

    Returns:
        The answer, the history with this round, and the picture's pixels [1, 3, S, S] for the next round.
    """,
)


def chat_batch(
    images: Sequence[str | Image.Image | torch.Tensor | None],
    model: Any,
    tokenizer: Any,
    queries: Sequence[str],
    histories: Sequence[History] | None = None,
    *,
    english: bool = False,
    rows: int = 16,
    **settings: Any,
) -> list[tuple[str, History] | VisualGLMError]:
    """Answer many questions side by side, each as `chat` would answer it alone.

    Args:
        images: for each question a path, a URL, a PIL picture, pixels [1, 3, S, S], or None for a talk without one.
        model: a VisualGLMModel.
        tokenizer: from `load_tokenizer`.
        queries: the questions.
        histories: earlier rounds of each as (question, answer).
        english: ask with "Q:" and "A:" instead of the Chinese marks.
        rows: how many are answered at a time.
        settings: as of `GenerationConfig`, whose defaults they have.

    Returns:
        For each question its answer and the history with this round, or the error that it alone has met.

    Raises:
        SettingError: the lists differ in length, or a setting makes no sense.
    """
    histories = [[] for _ in queries] if histories is None else histories
    if not len(images) == len(queries) == len(histories):
        raise SettingError(f"There are {len(images)} images, {len(queries)} queries and {len(histories)} histories.")
    language = ENGLISH if english else CHINESE
    asked = [
        (
            Conversation(
                image or None if isinstance(image, str) else image, [Turn(*turn) for turn in history], language
            ),
            query,
        )
        for image, query, history in zip(images, queries, histories, strict=True)
    ]
    answers = SatChatModel(model, tokenizer).answer_batch(asked, CHAT.replace(**settings), rows)
    return [
        answer if isinstance(answer, VisualGLMError) else (answer, [*history, (query, answer)])
        for answer, query, history in zip(answers, queries, histories, strict=True)
    ]
