"""Answer questions about images: the `ChatModel` protocol and its implementation over the engine."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Any, Protocol

import torch

from .aliases import FormerAttribute, former_keywords
from .answer_stream import BatchQuestion, stream_answers
from .description import UNNAMED, Description
from .engine import DEMO, GenerationConfig, Request, Scheduler, TokenOutput, TokenStream, get_scheduler
from .engine.network import Network
from .errors import VisualGLMError
from .images.embedding_cache import ImageEmbeddingCache
from .model_facts import ModelFacts, collect_facts
from .prompt import Conversation, Prompt, Tokenizer, encode_prompt
from .resource_errors import translate_resource_errors
from .scoring import AnswerScore, score_answers
from .streaming import (
    AnswerPhase as AnswerPhase,
    CompleteAnswer as CompleteAnswer,
    IncrementalDetokenizer as IncrementalDetokenizer,
    StreamChunk as StreamChunk,
    Usage as Usage,
)


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
        self.scheduler: Scheduler | None = None
        self.token_stream: TokenStream | None = None
        self.output_batches: Iterator[Sequence[TokenOutput]] = iter(())
        self.closed = False

    def __next__(self) -> StreamChunk:
        """Wait for the next chunk."""
        if self.token_stream is None and not self.closed:
            with translate_resource_errors():
                prompt, request = self.model.make_request(*self.arguments)
                self.detokenizer = IncrementalDetokenizer(self.model.tokenizer, prompt, self.started)
                self.scheduler = self.model.scheduler
                self.token_stream = self.scheduler.submit(request)
            self.output_batches = self.token_stream.batches(self.min_interval_s)
            if self.closed:  # by another thread during the submission
                self.token_stream.close()
        outputs = next(self.output_batches)
        assert self.detokenizer is not None  # set before the first outputs arrive
        return self.detokenizer.update(*outputs)

    @property
    def phase(self) -> AnswerPhase:
        """The current work on this answer; any thread may ask, while another one waits for a chunk."""
        if self.token_stream is None or self.scheduler is None or self.detokenizer is None:
            return AnswerPhase("prompt" if self.arguments[0].image is None else "image")
        if self.detokenizer.answer_tokens:
            return AnswerPhase("text")
        requests_ahead = self.scheduler.requests_ahead(self.token_stream)
        return AnswerPhase("prompt") if requests_ahead is None else AnswerPhase("waiting", requests_ahead)

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
        return prompt, self.request_for(prompt, conversation, config, images)

    @former_keywords(asked="questions", rows="max_batch_size")
    def answer_batch(
        self, questions: Sequence[tuple[Conversation, str]], config: GenerationConfig, max_batch_size: int = 16
    ) -> list[str | VisualGLMError]:
        """Answer many questions in batches of up to `max_batch_size`, with the results of separate calls.

        Returns:
            The answers in the order of the questions; a failed question yields its error instead.
        """
        answers: list[str | VisualGLMError] = [""] * len(questions)
        for number, answer in self.answer_stream(questions, config, max_batch_size):
            answers[number] = answer.text if isinstance(answer, CompleteAnswer) else answer
        return answers

    def answer_stream(
        self, questions: Iterable[BatchQuestion], config: GenerationConfig, max_batch_size: int = 16
    ) -> Iterator[tuple[int, CompleteAnswer | VisualGLMError]]:
        """Answer a stream of questions at full batch; yield each result with the question's index, as they finish.

        Images are encoded in a thread, ahead of the answers. Closing the iterator cancels the remaining questions.

        Args:
            questions: conversations with their next questions, read lazily in that thread. An answer as a third item
                is scored, as by `score_answers`, in place of a generated one. An error, such as that of an unreadable
                image, is yielded as the result of its question.
            config: generation settings.
            max_batch_size: maximum number of answers generated at the same time.
        """
        return stream_answers(self, questions, config, max_batch_size)

    def score_answers(
        self, questions: Sequence[tuple[Conversation, str, str]], max_batch_size: int = 16
    ) -> list[AnswerScore | VisualGLMError]:
        """Compute the log-probabilities of given answers, without generating any.

        Args:
            questions: conversations, with their next questions and the answers to score.
            max_batch_size: maximum number of answers scored at the same time.

        Returns:
            The scores in the order of the questions; a failed question yields its error instead.
        """
        return score_answers(self, questions, max_batch_size)

    def request_for(
        self, prompt: Prompt, conversation: Conversation, config: GenerationConfig, images: torch.Tensor | None
    ) -> Request:
        """Return the engine's request for an encoded prompt and its image embeddings [1, L, D], if any."""
        forbidden = config.forbidden_ids
        if forbidden is None:
            forbidden = conversation.language.forbidden_ids(self.tokenizer)
        start = prompt.image_start or 0
        return Request(prompt.token_ids, config, forbidden, images, start, self.penalize_prompt)


class SatChatModel(NetworkChatModel):  # public name
    """The SAT network as a ChatModel: a VisualGLMModel, or another network with the properties of `Network`."""
