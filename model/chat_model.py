"""Stream answers about images: the `ChatModel` protocol, its implementation over the engine, and stream chunks."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from .aliases import FormerAttribute, former_keywords
from .description import UNNAMED, Description
from .engine import DEMO, GenerationConfig, Request, Scheduler, TokenOutput, TokenStream, get_scheduler
from .engine.network import Network
from .errors import VisualGLMError
from .images.embedding_cache import ImageEmbeddingCache
from .model_facts import ModelFacts, collect_facts
from .prompt import Conversation, Prompt, StableTextStream, Tokenizer, clean_answer, encode_prompt
from .resource_errors import translate_resource_errors


@dataclass(frozen=True)
class Usage:
    """Token counts and times of one answer.

    Attributes:
        prompt_tokens: tokens of the prompt, including the image embeddings.
        answer_tokens: tokens generated so far, without the end token.
        dropped_turns: number of oldest turns dropped because the prompt was too long.
        first_token_s, total_s: seconds from the question to the first token and to this chunk.
    """

    prompt_tokens: int
    answer_tokens: int
    dropped_turns: int
    first_token_s: float
    total_s: float


@dataclass(frozen=True, init=False)
class StreamChunk:
    """The next part of a streamed answer.

    Attributes:
        text: newly finalized text, "" if none yet. Emitted text is never revised.
        finish_reason: None until the last chunk; then "stop" (end token) or "length" (length limit).
        usage: token counts and times up to this chunk; the models of this package always set it.
    """

    text: str
    finish_reason: str | None
    usage: Usage | None
    so_far = FormerAttribute("usage")

    def __init__(
        self, text: str, finish_reason: str | None = None, usage: Usage | None = None, so_far: Usage | None = None
    ) -> None:
        if so_far is not None:
            warnings.warn("StreamChunk(): so_far= is included in usage=.", DeprecationWarning, stacklevel=2)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "finish_reason", finish_reason)
        object.__setattr__(self, "usage", so_far if usage is None else usage)


class IncrementalDetokenizer:
    """Converts the tokens of one answer to text, incrementally; emitted text is never revised.

    Args:
        tokenizer: decodes the tokens.
        prompt: the prompt, for the counts in `Usage`.
        started: time of the question, from `time.perf_counter`.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, started: float) -> None:
        self.prompt = prompt
        self.started = started
        self.decoder = tokenizer.stream()
        self.answer = StableTextStream(lambda raw: clean_answer(tokenizer.clean_up_spaces(raw)))
        self.answer_tokens = 0
        self.first_token_s = 0.0

    def update(self, *outputs: TokenOutput) -> StreamChunk:
        """Return the chunk for newly generated tokens; the last output may carry the finish reason."""
        self.first_token_s = self.first_token_s or time.perf_counter() - self.started
        token_ids = [output.token_id for output in outputs if output.token_id is not None]
        self.answer_tokens += len(token_ids)
        text = self.answer.push("".join(map(self.decoder.push, token_ids)))
        total_s = time.perf_counter() - self.started
        usage = Usage(
            len(self.prompt.token_ids), self.answer_tokens, self.prompt.dropped_turns, self.first_token_s, total_s
        )
        finish_reason = outputs[-1].finish_reason
        if finish_reason is not None:
            text += self.answer.push(self.decoder.flush()) + self.answer.flush()
        return StreamChunk(text, finish_reason, usage)


class StreamingAnswer(Iterator[StreamChunk]):
    """Iterator over the chunks of one answer of a NetworkChatModel; a chunk may have no text yet.

    The first `next` submits the request to the engine. The arguments are those of `NetworkChatModel.stream_answer`.
    """

    def __init__(
        self,
        model: "NetworkChatModel",
        conversation: Conversation,
        question: str,
        config: GenerationConfig,
        min_interval_s: float,
    ) -> None:
        self.model = model
        self.arguments = conversation, question, config
        self.min_interval_s = min_interval_s
        self.started = time.perf_counter()
        self.detokenizer: IncrementalDetokenizer | None = None
        self.token_stream: TokenStream | None = None
        self.output_batches: Iterator[Sequence[TokenOutput]] = iter(())
        self.closed = False

    def __next__(self) -> StreamChunk:
        """Wait for the next chunk."""
        if self.token_stream is None and not self.closed:
            with translate_resource_errors():
                prompt, request = self.model.make_request(*self.arguments)
                self.detokenizer = IncrementalDetokenizer(self.model.tokenizer, prompt, self.started)
                self.token_stream = self.model.scheduler.submit(request)
            self.output_batches = self.token_stream.batches(self.min_interval_s)
            if self.closed:  # by another thread during the submission
                self.token_stream.close()
        outputs = next(self.output_batches)
        assert self.detokenizer is not None  # set before the first outputs arrive
        return self.detokenizer.update(*outputs)

    def close(self) -> None:
        """Cancel the answer, from any thread; a thread that waits for a chunk gets StopIteration."""
        self.closed = True
        if self.token_stream is not None:
            self.token_stream.close()


# `warm_up` asks this question and generates this many tokens.
WARM_UP_QUESTION, WARM_UP_TOKENS = "描述这张图片。", 4


class ChatModel(Protocol):
    """A model with its tokenizer: the interface that the front ends use."""

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the model's square input; other images are resized to it."""
        ...

    @property
    def description(self) -> Description:
        """The name of the model and a sentence about its training domain."""
        ...

    @former_keywords(pause_s="min_interval_s")
    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, min_interval_s: float = 0.0
    ) -> Iterator[StreamChunk]:
        """Stream the answer to `question`; closing the iterator cancels. The conversation is not changed.

        If the iterator is not a generator, any thread may call its `close`, even while another thread waits for a
        chunk; a generator raises ValueError then. Chunks are coalesced, which costs less: at most one per
        `min_interval_s` seconds; the final chunk is sent immediately.
        """
        ...

    def warm_up(self) -> None:
        """Do the one-time work, such as compilation, that would delay the first answer."""
        ...


def demo_config(model: ChatModel | None) -> GenerationConfig:
    """Return the demo settings with the sampling of the model's generation_config.json.

    Args:
        model: a ChatModel, with or without the attribute `sampling`; None while it is being loaded.
    """
    return DEMO.replace(**getattr(model, "sampling", {}))


class NetworkChatModel:
    """A network with its tokenizer as a thread-safe ChatModel; concurrent questions share one scheduler.

    Create a new instance after training: this one caches the embeddings of recent images.

    Args:
        network: the network, in the form that the engine runs.
        tokenizer: its tokenizer.
        max_batch_size: maximum number of answers in one batch; None keeps the value of the network's scheduler.
        max_queue_size: maximum number of waiting questions; None keeps the value of the network's scheduler.
        penalize_prompt: whether the repetition penalty includes the tokens of the prompt.
        description: name and training domain of the model.
        sampling: settings from the model's generation_config.json, which programs use as defaults.
    """

    network: Any  # the object that the caller passed
    rows = FormerAttribute("max_batch_size")
    most_waiting = FormerAttribute("max_queue_size")
    pictures = FormerAttribute("image_cache")

    @former_keywords(rows="max_batch_size", most_waiting="max_queue_size")
    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        max_batch_size: int | None = None,
        max_queue_size: int | None = None,
        penalize_prompt: bool = False,
        description: Description = UNNAMED,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = self.engine_network = network
        self.tokenizer = tokenizer
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.penalize_prompt = penalize_prompt
        self.description = description
        self.sampling = dict(sampling or {})
        self.image_cache = ImageEmbeddingCache(network)

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the network's square input."""
        return self.engine_network.image_size

    @property
    def facts(self) -> ModelFacts:
        """Number of parameters, device, dtype and quantization of the network."""
        return collect_facts(self.network, self.engine_network.device, self.engine_network.dtype)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the network, which all chat models of this network share."""
        scheduler = get_scheduler(self.engine_network, self.tokenizer.eos_token_id)
        scheduler.set_limits(self.max_batch_size, self.max_queue_size)
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

    @former_keywords(pause_s="min_interval_s")
    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, min_interval_s: float = 0.0
    ) -> StreamingAnswer:
        """Stream the answer to `question` about the conversation's image; see `ChatModel`.

        Iterating raises:
            PromptTooLongError: the question alone exceeds the length limit.
            ImageError: the image cannot be used.
            BusyError: the queue is full.
            GenerationError: the logits are NaN, or generation ran out of memory.
            ResourceError: there is too little memory, or too few file descriptors or threads, to start.
        """
        return StreamingAnswer(self, conversation, question, config, min_interval_s)

    def warm_up(self) -> None:
        """Generate a few tokens on a GPU, to compile kernels and capture CUDA graphs before the first user."""
        if self.engine_network.device.type != "cuda":
            return
        blank = torch.zeros(1, 3, self.image_size, self.image_size)
        with (
            suppress(VisualGLMError),
            closing(self.stream_answer(Conversation(blank), WARM_UP_QUESTION, DEMO)) as answer,
        ):
            list(islice(answer, WARM_UP_TOKENS))  # the first real question will raise the same error

    def make_request(
        self,
        conversation: Conversation,
        question: str,
        config: GenerationConfig,
        images: torch.Tensor | None = None,
    ) -> tuple[Prompt, Request]:
        """Return the prompt of a question and the engine's request for it.

        Args:
            images: image embeddings [1, L, D] of the conversation's image; if None, an image is encoded here.
        """
        prompt = self.encode_prompt(conversation, question, config)
        if images is None and conversation.image is not None:
            [images] = self.image_cache.encode([self.image_cache.to_pixels(conversation.image)])
        return prompt, self._request(prompt, conversation, config, images)

    @former_keywords(asked="questions", rows="max_batch_size")
    def answer_batch(
        self, questions: Sequence[tuple[Conversation, str]], config: GenerationConfig, max_batch_size: int = 16
    ) -> list[str | VisualGLMError]:
        """Answer many questions in batches of up to `max_batch_size`, with the results of separate calls.

        Returns:
            The answers in the order of the questions; a failed question yields its error instead.
        """
        answers: list[str | VisualGLMError] = [""] * len(questions)
        detokenizers: dict[Request, tuple[int, IncrementalDetokenizer]] = {}
        requests = self._make_requests(questions, config, answers, detokenizers)
        for request, output in self.scheduler.answer_all(requests, max_batch_size):
            number, detokenizer = detokenizers[request]
            if isinstance(output, VisualGLMError):
                answers[number] = output
            elif chunk := detokenizer.update(output):
                answers[number] = f"{answers[number]}{chunk.text}"
        return answers

    def _make_requests(
        self,
        questions: Sequence[tuple[Conversation, str]],
        config: GenerationConfig,
        answers: list[str | VisualGLMError],
        detokenizers: dict[Request, tuple[int, IncrementalDetokenizer]],
    ) -> Iterator[Request]:
        """Yield the engine's requests, encoding images in batches; store an error as the answer of its question."""
        preferred_batch_size = self.image_cache.preferred_batch_size
        for start in range(0, len(questions), preferred_batch_size):
            ready: list[tuple[int, Prompt, torch.Tensor | None]] = []
            for number, (conversation, question) in enumerate(questions[start : start + preferred_batch_size], start):
                try:
                    prompt, image = self.encode_prompt(conversation, question, config), conversation.image
                    ready.append((number, prompt, None if image is None else self.image_cache.to_pixels(image)))
                except VisualGLMError as error:
                    answers[number] = error
            with translate_resource_errors():
                embeddings = iter(self.image_cache.encode([pixels for _, _, pixels in ready if pixels is not None]))
            for number, prompt, pixels in ready:
                images = None if pixels is None else next(embeddings)
                request = self._request(prompt, questions[number][0], config, images)
                detokenizers[request] = number, IncrementalDetokenizer(self.tokenizer, prompt, time.perf_counter())
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
