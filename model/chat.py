"""A picture and a question -> an answer, whole or as it is written."""

import functools
import sys
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from PIL import Image

from .errors import ImageError
from .generation import CHAT, GenerationConfig, generate
from .image import image_digest, load_image, preprocess
from .prompt import CHINESE, ENGLISH, AnswerStream, Conversation, Prompt, Turn, clean_answer, encode_prompt

# Pictures whose embeddings are kept: 256 KB each at full size in half precision.
CACHED_PICTURES = 8

History = list[tuple[str, str]]
Result = tuple[str, History, torch.Tensor | None]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens: the picture's vectors included.
        answer_tokens: tokens generated so far, without the end token.
        dropped_turns: oldest turns of the conversation that did not fit into the prompt.
        first_token_s, total_s: seconds from the question to the first token and to now.
    """

    prompt_tokens: int
    answer_tokens: int
    dropped_turns: int
    first_token_s: float
    total_s: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: what is new; text once given is never taken back.
        finish_reason: None until the last piece; then "stop" (the model ended) or "length" (a limit did).
        usage: on the last piece.
    """

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


class ChatModel(Protocol):
    """A model with its tokenizer, as the front ends see it."""

    def stream_answer(self, conversation: Conversation, question: str, config: GenerationConfig) -> Iterator[Piece]:
        """Answer `question`; closing the iterator cancels. The conversation is not changed."""
        ...


class SatChatModel:
    """The SAT network as a ChatModel. Make a new one after training: it keeps the embeddings of recent pictures.

    Args:
        network: a VisualGLMModel, or another network with its properties.
        tokenizer: a ChatGLMTokenizer.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()

    def to_pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Return the pixels [1, 3, S, S] of a picture, or those given."""
        if isinstance(image, torch.Tensor):
            return image if image.ndim == 4 else image[None]
        return preprocess(load_image(image), self.network.image_size)[None]

    @torch.inference_mode()
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [1, L, D] of pixels [1, 3, S, S], computed once for each picture."""
        key = image_digest(pixels)
        if key not in self._embeddings:
            self._embeddings[key] = self.network.encode_image(pixels)
            while len(self._embeddings) > CACHED_PICTURES:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]

    def encode_prompt(self, conversation: Conversation, question: str, config: GenerationConfig) -> Prompt:
        """Encode the prompt for `question` within the limits of `config` and of the model."""
        return encode_prompt(
            self.tokenizer,
            conversation,
            question,
            image_length=self.network.image_length,
            max_length=min(config.max_length, self.network.max_sequence_length),
        )

    def clean(self, raw: str) -> str:
        """Return a raw answer as a person should read it."""
        return clean_answer(self.tokenizer.clean_up_spaces(raw))

    def stream_answer(self, conversation: Conversation, question: str, config: GenerationConfig) -> Iterator[Piece]:
        """Answer `question` about the conversation's picture, piece by piece.

        Raises:
            PromptTooLongError: the question alone does not fit.
            ImageError: the picture cannot be used.
            GenerationError: the model's numbers are not usable.
        """
        started = time.perf_counter()
        prompt = self.encode_prompt(conversation, question, config)
        images = None if conversation.image is None else self.encode_image(self.to_pixels(conversation.image))
        forbidden = config.forbidden_ids
        if forbidden is None:
            forbidden = conversation.language.forbidden_ids(self.tokenizer)
        steps = generate(
            self.network,
            prompt.token_ids,
            config,
            end_id=self.tokenizer.eos_token_id,
            forbidden=forbidden,
            images=images,
            image_start=prompt.image_start or 0,
        )
        decoder, answer = self.tokenizer.stream(), AnswerStream(self.clean)
        count, first_s = 0, 0.0
        for step in steps:
            first_s = first_s or time.perf_counter() - started
            text = ""
            if step.token_id is not None:
                count += 1
                text = answer.push(decoder.push(step.token_id))
            if step.finish_reason is None:
                if text:
                    yield Piece(text)
                continue
            text += answer.push(decoder.flush()) + answer.flush()
            total_s = time.perf_counter() - started
            usage = Usage(len(prompt.token_ids), count, prompt.dropped_turns, first_s, total_s)
            yield Piece(text, step.finish_reason, usage)


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
        self.pixels = None if picture is None else self.chat_model.to_pixels(picture)
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
