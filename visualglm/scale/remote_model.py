"""A ChatModel whose answers are generated, and explained, by the replicas of a Ray Serve deployment."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Protocol

from model import Conversation, Explanation, GenerationConfig, GenerationError, StreamChunk
from model.description import Description
from model.model_facts import ModelFacts
from visualglm.explanations import POLL_S

from .wire import pack_answer, pack_question, unpack_chunks, unpack_explanation

REPLICA_LOST = "The process that generated this answer has ended, and the answer with it. Ask again."
EXPLAINER_LOST = "The process that explained this answer has ended. Ask again."


class ByteStream(Protocol):
    """The response of a replica: an iterator over packed chunks that any thread can cancel."""

    def __next__(self) -> bytes:
        """Wait for the next packed chunks."""
        ...

    def cancel(self) -> None:
        """Cancel the answer at the replica."""
        ...


SendQuestion = Callable[[bytes], ByteStream]
ExplainAnswer = Callable[[bytes], Future[bytes]]


class RemoteAnswer(Iterator[StreamChunk]):
    """Iterator over the chunks of one answer, which a replica generates.

    A replica that is lost before the first chunk is replaced by another one, once.

    Args:
        send: sends packed questions to a replica.
        question: the packed question.
        lost: exceptions that report a lost replica.
    """

    def __init__(self, send: SendQuestion, question: bytes, lost: tuple[type[Exception], ...]) -> None:
        self.send = send
        self.question = question
        self.lost = lost
        self.chunks: Iterator[StreamChunk] = iter(())
        self.stream: ByteStream | None = None
        self.started = self.retried = self.closed = self.finished = False
        self.lock = threading.Lock()

    def __next__(self) -> StreamChunk:
        """Wait for the next chunk."""
        while True:
            for chunk in self.chunks:
                self.finished = chunk.finish_reason is not None
                return chunk
            if self.closed or self.finished:
                raise StopIteration
            self.chunks = iter(self._receive())

    def _receive(self) -> list[StreamChunk]:
        """Return the next chunks; none after a retry, or when the answer was closed."""
        try:
            chunks = unpack_chunks(next(self._open_stream()))
            self.started = True
            return chunks
        except StopIteration as error:  # not the end of the answer, whose last chunk is marked
            self._retry(error)
        except self.lost as error:
            self._retry(error)
        return []

    def _retry(self, error: Exception) -> None:
        """Let the next call ask another replica, once and only before the first chunk."""
        if self.closed:
            return
        if self.started or self.retried:
            raise GenerationError(REPLICA_LOST) from error
        self.retried, self.stream = True, None

    def _open_stream(self) -> ByteStream:
        """Return the stream of the current replica, which the first call asks."""
        if self.stream is None:
            stream = self.send(self.question)
            with self.lock:
                self.stream = stream
                cancelled = self.closed
            if cancelled:
                stream.cancel()
        return self.stream

    def close(self) -> None:
        """Cancel the answer, from any thread; a thread that waits for a chunk gets StopIteration."""
        with self.lock:
            self.closed = True
            stream = self.stream
        if stream is not None and not self.finished:
            stream.cancel()


class RemoteChatModel:
    """A ChatModel whose answers are generated and explained by replicas.

    Args:
        send: sends packed questions to a replica.
        explain: lets a replica explain a packed answer.
        facts: the attributes of the replicas' model, from `describe_model`.
        lost: exceptions that report a lost replica.
    """

    def __init__(
        self,
        send: SendQuestion,
        explain: ExplainAnswer,
        facts: Mapping[str, Any],
        lost: tuple[type[Exception], ...],
    ) -> None:
        self.send = send
        self.explain = explain
        self.lost = lost
        self.image_size: int = facts["image_size"]
        self.description: Description = facts["description"]
        self.facts: ModelFacts = facts["facts"]
        self.sampling: Mapping[str, Any] = facts["sampling"]

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, min_interval_s: float = 0.0
    ) -> RemoteAnswer:
        """Stream the answer to `question`; see `ChatModel`.

        Iterating raises:
            GenerationError: the replica was lost during the answer, or two replicas were lost before it.
            VisualGLMError: raised by the replica's model.
        """
        return RemoteAnswer(self.send, pack_question(conversation, question, config, min_interval_s), self.lost)

    def explain_answer(
        self, conversation: Conversation, question: str, answer: str, is_cancelled: Callable[[], bool]
    ) -> Explanation | None:
        """Explain an answer; see `RemoteExplainer`. A replica that is lost is replaced by another one, once.

        Args:
            conversation: its image is a PIL image.

        Raises:
            GenerationError: two replicas were lost.
            VisualGLMError: raised by the replica's model.
        """
        packed = self._request_explanation(pack_answer(conversation, question, answer), is_cancelled)
        return None if packed is None else unpack_explanation(packed, answer, conversation.image.convert("RGB"))

    def _request_explanation(self, answer: bytes, is_cancelled: Callable[[], bool]) -> bytes | None:
        with suppress(*self.lost):  # an explanation can be repeated
            return wait_for(self.explain(answer), is_cancelled)
        try:
            return wait_for(self.explain(answer), is_cancelled)
        except self.lost as error:
            raise GenerationError(EXPLAINER_LOST) from error

    def warm_up(self) -> None:
        """Do nothing: each replica warms up before it accepts questions."""


def wait_for(call: Future[bytes], is_cancelled: Callable[[], bool]) -> bytes | None:
    """Return the result of a call; None if `is_cancelled` returns true before, and then cancel the call."""
    while not wait([call], POLL_S).done:
        if is_cancelled():
            call.cancel()
            return None
    return call.result()


def describe_model(model: Any) -> dict[str, Any]:
    """Return the attributes of a ChatModel that a RemoteChatModel shows."""
    return {
        "image_size": model.image_size,
        "description": model.description,
        "facts": getattr(model, "facts", ModelFacts()),
        "sampling": dict(getattr(model, "sampling", {})),
    }
