"""The outbox of a replica for one client: the chunks of all its answers, in bundles that one call carries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import Any

from model import VisualGLMError
from model.resource_errors import translate_resource_errors

from .wire import pack_bundle, pack_chunks, pack_error

BUNDLE_INTERVAL_S = 0.05  # at most 20 events per second and answer
# The first chunk of an answer does not wait that long, only for the first chunks of the same step.
FIRST_DELAY_S = 0.005


class Outbox:
    """Collects the chunks of all answers to one client.

    Args:
        carrier: number of the call that carries the bundles.

    Attributes:
        answers: the running answers by their numbers.
    """

    def __init__(self, carrier: int) -> None:
        self.carrier = carrier
        self.answers: dict[int, OutboxAnswer] = {}
        self.messages: list[tuple[int, bytes | None]] = []
        self.waiting, self.urgent = asyncio.Event(), asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def open(self, number: int, answer: Any) -> "OutboxAnswer":
        """Add an answer, an iterator of a ChatModel that any thread may close."""
        self.answers[number] = OutboxAnswer(self, number, answer)
        return self.answers[number]

    async def bundles(self) -> AsyncIterator[bytes]:
        """Yield bundles until there is no answer left."""
        while self.answers or self.messages:
            await self.waiting.wait()
            messages, self.messages = self.messages, []
            self.waiting.clear()
            self.urgent.clear()
            yield pack_bundle(messages)
            with suppress(TimeoutError):
                async with asyncio.timeout(BUNDLE_INTERVAL_S):
                    await self.urgent.wait()
                    await asyncio.sleep(FIRST_DELAY_S)

    def post(self, number: int, message: bytes | None, is_urgent: bool) -> None:
        """Add packed chunks to the next bundle, from any thread; None ends the answer."""
        with suppress(RuntimeError):  # the event loop is closed
            self.loop.call_soon_threadsafe(self._add, number, message, is_urgent)

    def _add(self, number: int, message: bytes | None, is_urgent: bool) -> None:
        self.messages.append((number, message))
        self.waiting.set()
        if is_urgent:
            self.urgent.set()
        if message is None:
            self.answers.pop(number).ended.set()

    def close(self) -> None:
        """Stop all answers: the call that carried their chunks has ended."""
        for answer in list(self.answers.values()):
            answer.failure = ConnectionError("The call that carried the chunks of this answer has ended.")
            answer.close()


class OutboxAnswer:
    """One answer, which a thread generates.

    Args:
        outbox: gets its chunks.
        number: of the answer.
        chunks: the iterator of a ChatModel.

    Attributes:
        ended: set as soon as the answer has ended.
        failure: why it ended before its last chunk, unless that is an error of the model.
    """

    def __init__(self, outbox: Outbox, number: int, chunks: Any) -> None:
        self.outbox = outbox
        self.number = number
        self.chunks = chunks
        self.ended = asyncio.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Generate the answer; for a thread of a pool."""
        is_first = True
        try:
            with closing(self.chunks), translate_resource_errors():
                for chunk in self.chunks:
                    self.outbox.post(self.number, pack_chunks([chunk]), is_first)
                    is_first = False
        except VisualGLMError as error:
            self.outbox.post(self.number, pack_error(error), is_first)
        except Exception as error:  # raised again by the call of the answer
            self.failure = error
        self.outbox.post(self.number, None, False)

    async def wait(self) -> None:
        """Wait for the end of the answer.

        Raises:
            Exception: its failure.
        """
        await self.ended.wait()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Stop the answer."""
        self.chunks.close()
