"""Answer a stream of questions at full batch: encode images ahead, and collect complete answers."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeAlias

import torch

from .engine import GenerationConfig, Request, Scheduler, TokenOutput
from .errors import GenerationError, QuestionError, VisualGLMError
from .images.embedding_cache import ImageEmbeddingCache
from .prompt import Conversation, Prompt, Tokenizer
from .resource_errors import translate_resource_errors
from .streaming import AnswerCollector, CompleteAnswer, IncrementalDetokenizer

# A conversation with its next question, and with the answer to score if none is to be generated; or the error because
# of which there is no question.
BatchQuestion: TypeAlias = tuple[Conversation, str] | tuple[Conversation, str, str] | VisualGLMError
NumberedResult: TypeAlias = tuple[int, CompleteAnswer | VisualGLMError]


class BatchModel(Protocol):
    """The part of a chat model that `stream_answers` needs; see `NetworkChatModel`."""

    tokenizer: Tokenizer
    image_cache: ImageEmbeddingCache

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that runs the requests."""
        ...

    def encode_prompt(self, conversation: Conversation, question: str, config: GenerationConfig) -> Prompt:
        """Encode the prompt for a question."""
        ...

    def request_for(
        self, prompt: Prompt, conversation: Conversation, config: GenerationConfig, images: torch.Tensor | None
    ) -> Request:
        """Return the engine's request for an encoded prompt and its image embeddings."""
        ...


@dataclass
class PreparedQuestion:
    """A question with its encoded prompt.

    Attributes:
        number: index of the question in the stream.
        pixels: [1, 3, S, S]; None without an image.
        forced_ids: tokens of the answer to score; empty to generate one.
    """

    number: int
    conversation: Conversation
    prompt: Prompt
    pixels: torch.Tensor | None
    forced_ids: Sequence[int]


@dataclass
class FailedQuestion:
    """A question that cannot be answered, with its index in the stream."""

    number: int
    error: VisualGLMError


class RequestReader:
    """Reads questions in groups and encodes the images of a group together.

    Iterating yields the engine's request of a question, or its error if it cannot be answered. The arguments are those
    of `stream_answers`.
    """

    def __init__(self, model: BatchModel, questions: Iterable[BatchQuestion], config: GenerationConfig) -> None:
        self.model = model
        self.questions = questions
        self.config = config
        self.unfinished: dict[Request, tuple[int, AnswerCollector]] = {}

    def __iter__(self) -> Iterator[Request | FailedQuestion]:
        numbered = enumerate(self.questions)
        while group := list(islice(numbered, self.model.image_cache.preferred_batch_size)):
            prepared = [self._prepare(number, question) for number, question in group]
            pixels = [
                item.pixels for item in prepared if isinstance(item, PreparedQuestion) and item.pixels is not None
            ]
            with translate_resource_errors():
                embeddings = iter(self.model.image_cache.encode(pixels))
            for item in prepared:
                yield self._make_request(item, embeddings) if isinstance(item, PreparedQuestion) else item

    def collect(self, request: Request, output: TokenOutput | GenerationError) -> NumberedResult | None:
        """Add an output of a request; return the question's number and result if it is complete now."""
        number, collector = self.unfinished[request]
        result = output if isinstance(output, GenerationError) else collector.add(output)
        if result is None:
            return None
        del self.unfinished[request]
        return number, result

    def _prepare(self, number: int, question: BatchQuestion) -> PreparedQuestion | FailedQuestion:
        """Encode the prompt and check the image; return the error of a question that cannot be answered."""
        if isinstance(question, VisualGLMError):
            return FailedQuestion(number, question)
        conversation, text, *given = question
        try:
            prompt = self.model.encode_prompt(conversation, text, self.config)
            image = conversation.image
            pixels = None if image is None else self.model.image_cache.to_pixels(image)
            forced_ids = encode_given(self.model, prompt, *given) if given else ()
        except VisualGLMError as error:
            return FailedQuestion(number, error)
        return PreparedQuestion(number, conversation, prompt, pixels, forced_ids)

    def _make_request(self, item: PreparedQuestion, embeddings: Iterator[torch.Tensor]) -> Request:
        images = None if item.pixels is None else next(embeddings)
        request = self.model.request_for(item.prompt, item.conversation, self.config, images)
        if item.forced_ids:
            # Whatever the settings are, these tokens are scored.
            config = self.config.replace(top_logprobs=self.config.top_logprobs or 0)
            request = replace(request, config=config, forced_ids=item.forced_ids)
        detokenizer = IncrementalDetokenizer(self.model.tokenizer, item.prompt, time.perf_counter())
        self.unfinished[request] = item.number, AnswerCollector(detokenizer)
        return request


def encode_given(model: BatchModel, prompt: Prompt, answer: str) -> Sequence[int]:
    """Return the tokens of a given answer.

    Raises:
        QuestionError: the answer is empty, or exceeds the capacity of a sequence.
    """
    token_ids, length = model.tokenizer.encode_text(answer), len(prompt.token_ids)
    if not token_ids:
        raise QuestionError("The answer to score is empty.")
    if length + len(token_ids) > (capacity := model.scheduler.batch.capacity):
        raise QuestionError(
            f"The prompt of {length} tokens and the answer of {len(token_ids)} tokens exceed the limit of "
            f"{capacity}. Shorten one of them."
        )
    return token_ids


def stream_answers(
    model: BatchModel, questions: Iterable[BatchQuestion], config: GenerationConfig, max_batch_size: int
) -> Iterator[NumberedResult]:
    """Answer a stream of questions; see `NetworkChatModel.answer_stream`."""
    reader = RequestReader(model, questions, config)
    # The engine works on the requests of one group while the images of the next group are encoded.
    lookahead = model.image_cache.preferred_batch_size
    with closing(model.scheduler.answer_all(reader, max_batch_size, lookahead=lookahead)) as outputs:
        for item in outputs:
            if isinstance(item, FailedQuestion):
                yield item.number, item.error
            elif result := reader.collect(*item):
                yield result
