"""A client's channel to the replicas of a deployment: it asks questions and receives bundles of chunks.

A message between processes costs as much for the chunks of many answers as for one. Each answer is a call of its own,
but one call carries the chunks of all answers that a replica generates for the client. The first message of a call
tells which call carries its chunks. The other calls stay open until their answers end, so that Ray Serve counts them
and reports a lost replica to each.
"""

import asyncio
import itertools
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from .wire import unpack_bundle, unpack_carrier

Result = TypeVar("Result")


class Call(Protocol):
    """The messages of a call to a replica."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the messages."""
        ...

    def cancel(self) -> Any:
        """Cancel the call."""
        ...


class Replicas(Protocol):
    """The replicas of a deployment, as `ModelReplica` defines them."""

    def answer(self, client: str, number: int, question: bytes) -> Call:
        """Let one of the replicas answer a packed question."""
        ...

    async def stop(self, client: str, number: int) -> None:
        """Stop the answer at the replica that generates it."""
        ...

    async def explain(self, answer: bytes) -> bytes:
        """Let one of the replicas explain a packed answer; return the packed explanation."""
        ...


class ChannelAnswer(Iterator[bytes]):
    """Iterator over the packed chunks of one answer.

    Args:
        channel: passes on the chunks.
        number: of the answer, unique in the channel.

    Attributes:
        call: the call to the replica; None before it is made.
        carrier: number of the call that carries the chunks; None before the replica has told it.
        settled: set as soon as the carrier is known or the call has ended.
    """

    def __init__(self, channel: "Channel", number: int) -> None:
        self.channel = channel
        self.number = number
        self.messages: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        self.call: Call | None = None
        self.carrier: int | None = None
        self.settled = asyncio.Event()

    def __next__(self) -> bytes:
        """Wait for the next packed chunks."""
        message = self.messages.get()
        if message is None:
            raise StopIteration
        if isinstance(message, Exception):
            raise message
        return message

    def cancel(self) -> None:
        """Stop the answer, from any thread; a thread that waits for chunks gets StopIteration."""
        self.messages.put(None)
        self.channel.stop(self)


class Channel:
    """Asks the replicas and passes the chunks to their answers, in a thread of its own.

    Args:
        replicas: the replicas.
    """

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        self.client = uuid.uuid4().hex
        self.numbers = itertools.count()
        self.answers: dict[int, ChannelAnswer] = {}
        self.loop = asyncio.new_event_loop()
        self.tasks: set[asyncio.Task[None]] = set()  # the event loop does not keep them
        self.thread = threading.Thread(target=self._run, name="channel", daemon=True)
        self.thread.start()

    def send(self, question: bytes) -> ChannelAnswer:
        """Let a replica answer a packed question; return the answer."""
        answer = ChannelAnswer(self, next(self.numbers))
        self.answers[answer.number] = answer
        self._start(self._receive(answer, question))
        return answer

    def explain(self, answer: bytes) -> Future[bytes]:
        """Let a replica explain a packed answer; return the packed explanation, which can be cancelled."""
        return asyncio.run_coroutine_threadsafe(self.replicas.explain(answer), self.loop)

    def stop(self, answer: ChannelAnswer) -> None:
        """Stop an answer unless it has ended."""
        if self.answers.pop(answer.number, None) is not None:
            self._start(self._stop(answer))

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the channel's event loop; return its result."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def close(self) -> None:
        """Cancel all calls, and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self._cancel_calls())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _cancel_calls(self) -> None:
        calls = list(self.tasks)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        def start() -> None:
            task = self.loop.create_task(work)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        self.loop.call_soon_threadsafe(start)

    async def _receive(self, answer: ChannelAnswer, question: bytes) -> None:
        """Make the call of an answer; pass on all chunks that the call carries."""
        try:
            answer.call = self.replicas.answer(self.client, answer.number, question)
            async for message in answer.call:
                if answer.carrier is None:
                    answer.carrier = unpack_carrier(message)
                    answer.settled.set()
                else:
                    self._pass_on(message)
            if answer.carrier is None:
                self._end(answer, None)
        except Exception as error:  # also the end of all answers whose chunks this call carried
            running = list(self.answers.values())  # a copy, because other threads add answers meanwhile
            for lost in [answer, *(each for each in running if each.carrier == answer.number)]:
                self._end(lost, error)
        finally:
            answer.settled.set()

    def _pass_on(self, bundle: bytes) -> None:
        for number, chunks in unpack_bundle(bundle):
            answer = self.answers.get(number)
            if answer is None:  # it was stopped
                continue
            if chunks is None:
                self._end(answer, None)
            else:
                answer.messages.put(chunks)

    def _end(self, answer: ChannelAnswer, error: Exception | None) -> None:
        if self.answers.pop(answer.number, None) is not None:
            answer.messages.put(error)

    async def _stop(self, answer: ChannelAnswer) -> None:
        """Stop an answer at its replica. A call that carries the chunks of other answers must not be cancelled."""
        await answer.settled.wait()
        if answer.carrier == answer.number:
            await self.replicas.stop(self.client, answer.number)
        elif answer.call is not None:
            answer.call.cancel()
