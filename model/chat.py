"""A picture and a question -> an answer, whole or as it is written."""

import functools
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from PIL import Image

from .errors import ImageError, SettingError, VisualGLMError
from .generation import CHAT, GenerationConfig, Request, Scheduler, Steps, scheduler_of
from .image import load_image
from .pictures import TOGETHER, PictureEmbeddings
from .pieces import Answer, AnswerWriter, Piece
from .prompt import CHINESE, ENGLISH, Conversation, Prompt, Turn, encode_prompt

History = list[tuple[str, str]]
Result = tuple[str, History, torch.Tensor | None]
P = ParamSpec("P")
T = TypeVar("T")


class ChatModel(Protocol):
    """A model with its tokenizer, as the front ends see it."""

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, pause_s: float = 0.0
    ) -> Iterator[Piece]:
        """Answer `question`; closing the iterator cancels. The conversation is not changed.

        The iterator may have a `close` that any thread may call, also while another waits for a piece; a generator's
        raises ValueError then. After a piece none comes for `pause_s` seconds, but for the last: what comes
        meanwhile is one piece, which costs less.
        """
        ...


class SatChatModel:
    """The SAT network as a ChatModel, for any thread; questions that come together are answered side by side.

    Make a new one after training: it keeps the embeddings of recent pictures.

    Args:
        network: a VisualGLMModel, or another network with its properties.
        tokenizer: a ChatGLMTokenizer.
        rows: the most answers at a time; None leaves what the network's scheduler has.
        most_waiting: the most questions that wait for their turn; None likewise.
        penalize_prompt: whether the repetition penalty counts the prompt's tokens, too.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        rows: int | None = None,
        most_waiting: int | None = None,
        penalize_prompt: bool = False,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.rows = rows
        self.most_waiting = most_waiting
        self.penalize_prompt = penalize_prompt
        self.pictures = PictureEmbeddings(network)

    @property
    def scheduler(self) -> Scheduler:
        """What answers for the network."""
        scheduler = scheduler_of(self.network, self.tokenizer.eos_token_id)
        scheduler.limit(self.rows, self.most_waiting)
        return scheduler

    def encode_prompt(self, conversation: Conversation, question: str, config: GenerationConfig) -> Prompt:
        """Encode the prompt for `question` within the limits of `config` and of the model."""
        return encode_prompt(
            self.tokenizer,
            conversation,
            question,
            image_length=self.network.image_length,
            max_length=min(config.max_length, self.network.max_sequence_length),
        )

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, pause_s: float = 0.0
    ) -> Answer:
        """Answer `question` about the conversation's picture, piece by piece; see `ChatModel`.

        Raises:
            PromptTooLongError: the question alone does not fit.
            ImageError: the picture cannot be used.
            BusyError: too many questions wait already.
            GenerationError: the model's numbers are not usable, or the memory does not suffice.
        """
        started = time.perf_counter()

        def begin() -> tuple[AnswerWriter, Steps]:
            prompt, request = self.make_request(conversation, question, config)
            return AnswerWriter(self.tokenizer, prompt, started), self.scheduler.submit(request)

        return Answer(begin, pause_s)

    def make_request(
        self,
        conversation: Conversation,
        question: str,
        config: GenerationConfig,
        images: torch.Tensor | None = None,
    ) -> tuple[Prompt, Request]:
        """Return what the engine is to answer for a question.

        Args:
            images: the image embeddings [1, L, D] of the conversation's picture, where they are known already.
        """
        prompt = self.encode_prompt(conversation, question, config)
        if images is None:
            images = self.pictures.embed(conversation.image)
        return prompt, self._request(prompt, conversation, config, images)

    def answer_batch(
        self, asked: Sequence[tuple[Conversation, str]], config: GenerationConfig, rows: int = 16
    ) -> list[str | VisualGLMError]:
        """Answer many questions side by side, up to `rows` at a time.

        An answer is the one that its question would get alone.

        Returns:
            An answer for each question in turn, or the error that this question alone has met.
        """
        answers: list[str | VisualGLMError] = [""] * len(asked)
        writers: dict[Request, tuple[int, AnswerWriter]] = {}
        requests = self._make_requests(asked, config, answers, writers)
        for request, step in self.scheduler.answer_all(requests, rows):
            number, writer = writers[request]
            if isinstance(step, VisualGLMError):
                answers[number] = step
            elif piece := writer.write(step):
                answers[number] = f"{answers[number]}{piece.text}"
        return answers

    def _make_requests(
        self,
        asked: Sequence[tuple[Conversation, str]],
        config: GenerationConfig,
        answers: list[str | VisualGLMError],
        writers: dict[Request, tuple[int, AnswerWriter]],
    ) -> Iterator[Request]:
        """Yield what the engine is to answer, pictures encoded some at a time; errors become answers."""
        for start in range(0, len(asked), TOGETHER):
            ready: list[tuple[int, Prompt, torch.Tensor | None]] = []
            for number, (conversation, question) in enumerate(asked[start : start + TOGETHER], start):
                try:
                    prompt, image = self.encode_prompt(conversation, question, config), conversation.image
                    ready.append((number, prompt, None if image is None else self.pictures.to_pixels(image)))
                except VisualGLMError as error:
                    answers[number] = error
            embeddings = iter(self.pictures.encode([pixels for _, _, pixels in ready if pixels is not None]))
            for number, prompt, pixels in ready:
                images = None if pixels is None else next(embeddings)
                request = self._request(prompt, asked[number][0], config, images)
                writers[request] = number, AnswerWriter(self.tokenizer, prompt, time.perf_counter())
                yield request

    def _request(
        self, prompt: Prompt, conversation: Conversation, config: GenerationConfig, images: torch.Tensor | None
    ) -> Request:
        forbidden = config.forbidden_ids
        if forbidden is None:
            forbidden = conversation.language.forbidden_ids(self.tokenizer)
        start = prompt.image_start or 0
        return Request(prompt.token_ids, config, forbidden, images, start, self.penalize_prompt)


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
