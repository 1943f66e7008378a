"""Answer questions about pictures, for any thread: the chat models, and the pieces in which answers come."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from .description import UNNAMED, Description
from .engine import DEMO, GenerationConfig, Request, Scheduler, Step, Steps, scheduler_of
from .engine.network import Network
from .errors import VisualGLMError
from .images.embedding_cache import PictureEmbeddings
from .prompt import AnswerStream, Conversation, Prompt, Tokenizer, clean_answer, encode_prompt
from .shortage import shortage_explained


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
        text: what is new, "" where no more is certain yet; text once given is never taken back.
        finish_reason: None until the last piece; then "stop" (the model ended) or "length" (a limit did).
        usage: on the last piece.
        so_far: on every piece, what the answer has taken up to here; for callers that end it early.
    """

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    so_far: Usage | None = None


class AnswerWriter:
    """Turns the tokens of one answer into text that is never taken back.

    Args:
        tokenizer: decodes them.
        prompt: what is answered.
        started: when the question was asked, by `time.perf_counter`.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, started: float) -> None:
        self.prompt = prompt
        self.started = started
        self.decoder = tokenizer.stream()
        self.answer = AnswerStream(lambda raw: clean_answer(tokenizer.clean_up_spaces(raw)))
        self.count = 0
        self.first_s = 0.0

    def write(self, *steps: Step) -> Piece:
        """Return what steps add."""
        self.first_s = self.first_s or time.perf_counter() - self.started
        token_ids = [step.token_id for step in steps if step.token_id is not None]
        self.count += len(token_ids)
        text = self.answer.push("".join(map(self.decoder.push, token_ids)))
        total_s = time.perf_counter() - self.started
        usage = Usage(len(self.prompt.token_ids), self.count, self.prompt.dropped_turns, self.first_s, total_s)
        finish_reason = steps[-1].finish_reason
        if finish_reason is None:
            return Piece(text, so_far=usage)
        text += self.answer.push(self.decoder.flush()) + self.answer.flush()
        return Piece(text, finish_reason, usage, usage)


class Answer(Iterator[Piece]):
    """An answer of a NetworkChatModel, written as it is read; a piece may have no text, if none is certain yet.

    The engine is asked when the first piece is wanted. The arguments are those of `NetworkChatModel.stream_answer`.
    """

    def __init__(
        self,
        model: "NetworkChatModel",
        conversation: Conversation,
        question: str,
        config: GenerationConfig,
        pause_s: float,
    ) -> None:
        self.model = model
        self.asked = conversation, question, config
        self.pause_s = pause_s
        self.started = time.perf_counter()
        self.writer: AnswerWriter | None = None
        self.steps: Steps | None = None
        self.groups: Iterator[Sequence[Step]] = iter(())
        self.closed = False

    def __next__(self) -> Piece:
        """Wait for the next piece."""
        if self.steps is None and not self.closed:
            with shortage_explained():
                prompt, request = self.model.make_request(*self.asked)
                self.writer = AnswerWriter(self.model.tokenizer, prompt, self.started)
                self.steps = self.model.scheduler.submit(request)
            self.groups = self.steps.together(self.pause_s)
            if self.closed:  # meanwhile
                self.steps.close()
        steps = next(self.groups)
        assert self.writer is not None  # there are steps
        return self.writer.write(*steps)

    def close(self) -> None:
        """Cancel the answer, from any thread; whoever waits for a piece waits no more."""
        self.closed = True
        if self.steps is not None:
            self.steps.close()


# What a GPU is asked before anybody else asks, and how many tokens of the answer are waited for.
FIRST_QUESTION, FIRST_TOKENS = "描述这张图片。", 4


class ChatModel(Protocol):
    """A model with its tokenizer, as the front ends see it."""

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that the model sees; larger ones are resized to it."""
        ...

    @property
    def description(self) -> Description:
        """The model's name and a sentence about its knowledge."""
        ...

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, pause_s: float = 0.0
    ) -> Iterator[Piece]:
        """Answer `question`; closing the iterator cancels. The conversation is not changed.

        The iterator may have a `close` that any thread may call, also while another waits for a piece; a generator's
        raises ValueError then. After a piece none comes for `pause_s` seconds, but for the last: what comes
        meanwhile is one piece, which costs less.
        """
        ...

    def warm_up(self) -> None:
        """Do what the first answer would have to wait for."""
        ...


def demo_config(model: ChatModel | None) -> GenerationConfig:
    """Return the demo settings with the sampling of the model's generation_config.json.

    Args:
        model: a ChatModel; one that does not come from a directory need not have `sampling`. None while it is loaded.
    """
    return DEMO.replace(**getattr(model, "sampling", {}))


class NetworkChatModel:
    """A network with its tokenizer as a ChatModel, for any thread; questions that come together share the engine.

    Make a new one after training: it keeps the embeddings of recent pictures.

    Args:
        network: the network, as the engine runs it.
        tokenizer: its tokenizer.
        rows: the most answers at a time; None leaves what the network's scheduler has.
        most_waiting: the most questions that wait for their turn; None likewise.
        penalize_prompt: whether the repetition penalty counts the prompt's tokens, too.
        description: name of the model, and what it knows.
        sampling: settings of `GenerationConfig` that the model's directory names, for programs that are given none.
    """

    network: Any  # as the caller has it

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        rows: int | None = None,
        most_waiting: int | None = None,
        penalize_prompt: bool = False,
        description: Description = UNNAMED,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = self.engine_network = network
        self.tokenizer = tokenizer
        self.rows = rows
        self.most_waiting = most_waiting
        self.penalize_prompt = penalize_prompt
        self.description = description
        self.sampling = dict(sampling or {})
        self.pictures = PictureEmbeddings(network)

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that the network sees."""
        return self.engine_network.image_size

    @property
    def scheduler(self) -> Scheduler:
        """What answers for the network."""
        scheduler = scheduler_of(self.engine_network, self.tokenizer.eos_token_id)
        scheduler.limit(self.rows, self.most_waiting)
        return scheduler

    def encode_prompt(self, conversation: Conversation, question: str, config: GenerationConfig) -> Prompt:
        """Encode the prompt for `question` within the limits of `config` and of the model."""
        return encode_prompt(
            self.tokenizer,
            conversation,
            question,
            image_length=self.engine_network.image_length,
            max_length=min(config.max_length, self.engine_network.max_sequence_length),
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
            ResourceError: the memory, file descriptors or threads do not suffice to begin.
        """
        return Answer(self, conversation, question, config, pause_s)

    def warm_up(self) -> None:
        """On a GPU, compile kernels and record graphs by beginning an answer, so that nobody else waits for that."""
        if self.engine_network.device.type != "cuda":
            return
        blank = torch.zeros(1, 3, self.image_size, self.image_size)
        with suppress(VisualGLMError), closing(self.stream_answer(Conversation(blank), FIRST_QUESTION, DEMO)) as answer:
            list(islice(answer, FIRST_TOKENS))  # what goes wrong will be said to whoever asks

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
        if images is None and conversation.image is not None:
            [images] = self.pictures.encode([self.pictures.to_pixels(conversation.image)])
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
        at_once = self.pictures.at_once
        for start in range(0, len(asked), at_once):
            ready: list[tuple[int, Prompt, torch.Tensor | None]] = []
            for number, (conversation, question) in enumerate(asked[start : start + at_once], start):
                try:
                    prompt, image = self.encode_prompt(conversation, question, config), conversation.image
                    ready.append((number, prompt, None if image is None else self.pictures.to_pixels(image)))
                except VisualGLMError as error:
                    answers[number] = error
            with shortage_explained():
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


class SatChatModel(NetworkChatModel):  # public name
    """The SAT network as a ChatModel: a VisualGLMModel, or another network with the properties of `Network`."""
