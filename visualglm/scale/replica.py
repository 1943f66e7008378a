"""A replica: one loaded model in a process of its own, which streams its answers to the HTTP application."""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from model import ChatModel, StreamChunk, VisualGLMError
from model.resource_errors import translate_resource_errors

from .remote_model import describe_model
from .wire import LANGUAGES, pack_chunks, pack_error, unpack_question

SEND_INTERVAL_S = 0.05  # at most 20 messages per second and answer


@dataclass(frozen=True)
class ModelSettings:
    """Names a model and how to load it, in plain values that can be sent to another machine.

    Attributes:
        options: the flags of `visualglm.arguments.add_model_arguments` with their values.
        language: code of the prompts' language; None for the language of each question.
        hf: use the Hugging Face implementation.
        max_batch_size: answers that a replica generates at once.
        max_queue_size: answers that may wait in a replica.
    """

    options: dict[str, Any]
    language: str | None
    hf: bool
    max_batch_size: int
    max_queue_size: int

    @property
    def model_names(self) -> list[str]:
        """Names or directories of the model and of its base."""
        return [self.options[name] for name in ("from_pretrained", "base") if self.options.get(name)]

    def load(self) -> ChatModel:
        """Load the model."""
        from visualglm.arguments import choose_loader, load_model

        language = None if self.language is None else LANGUAGES[self.language]
        options = argparse.Namespace(**self.options, language=language)
        limits = {"max_batch_size": self.max_batch_size, "max_queue_size": self.max_queue_size}
        return load_model(options, partial(choose_loader(self.hf, None), **limits))


def group_chunks(
    chunks: Iterator[StreamChunk], interval_s: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[list[StreamChunk]]:
    """Yield lists of chunks, at most one per interval; the first and the last chunk are not delayed."""
    pending: list[StreamChunk] = []
    sent: float | None = None
    for chunk in chunks:
        pending.append(chunk)
        if sent is None or chunk.finish_reason is not None or clock() - sent >= interval_s:
            sent = clock()
            yield pending
            pending = []
    if pending:
        yield pending


class AnswerPump:
    """Runs one answer in a thread and passes its packed chunks to an event loop.

    Args:
        answer: the iterator of a ChatModel; any thread may close it.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.loop = asyncio.get_running_loop()
        self.messages: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def run(self) -> None:
        """Generate the answer; for a thread of a pool."""
        end: bytes | Exception | None = None
        try:
            with closing(self.answer), translate_resource_errors():
                for chunks in group_chunks(self.answer, SEND_INTERVAL_S):
                    self._post(pack_chunks(chunks))
        except VisualGLMError as error:
            self._post(pack_error(error))
        except Exception as error:  # raised again by the event loop
            end = error
        self._post(end)

    def _post(self, message: bytes | Exception | None) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            self.loop.call_soon_threadsafe(self.messages.put_nowait, message)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the packed chunks; closing the iterator cancels the answer."""
        try:
            while (message := await self.messages.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            self.answer.close()


class ModelReplica:
    """A loaded model that answers packed questions.

    Args:
        settings: the model.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.model = settings.load()
        self.model.warm_up()
        self.pool = ThreadPoolExecutor(settings.max_batch_size + settings.max_queue_size, "answer")

    async def describe(self) -> dict[str, Any]:
        """Return the attributes that a `RemoteChatModel` shows."""
        return describe_model(self.model)

    async def answer(self, data: bytes) -> AsyncIterator[bytes]:
        """Stream the packed chunks of the answer to a packed question; see `wire`."""
        conversation, question, config, min_interval_s = unpack_question(data)
        interval = max(min_interval_s, SEND_INTERVAL_S) if min_interval_s else 0.0
        pump = AnswerPump(self.model.stream_answer(conversation, question, config, min_interval_s=interval))
        self.pool.submit(pump.run)
        async for message in pump.stream():
            yield message
