"""The outbox: chunks of several answers in a bundle, errors as values, the end of the call that carries them."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from model import BusyError, StreamChunk
from visualglm.scale.outbox import Outbox, OutboxAnswer
from visualglm.scale.wire import unpack_bundle, unpack_chunks


class ScriptedAnswer:
    """Yields items, raises the exceptions among them, and calls the functions among them."""

    def __init__(self, *items: StreamChunk | Exception | Callable[[], object]) -> None:
        self.items = iter(items)
        self.closed = False

    def __iter__(self) -> "ScriptedAnswer":
        return self

    def __next__(self) -> StreamChunk:
        item = next(self.items)
        if isinstance(item, Exception):
            raise item
        if isinstance(item, StreamChunk):
            return item
        item()
        return next(self)

    def close(self) -> None:
        self.closed = True


def run(answer: OutboxAnswer) -> Any:
    return asyncio.get_running_loop().run_in_executor(None, answer.run)


async def read(*answers: Any) -> list[list[tuple[int, bytes | None]]]:
    """Return the bundles of answers with the numbers 0, 1, ..., and raise their failures."""
    outbox = Outbox(0)
    opened = [outbox.open(number, answer) for number, answer in enumerate(answers)]
    threads = [run(answer) for answer in opened]
    bundles = [unpack_bundle(bundle) async for bundle in outbox.bundles()]
    await asyncio.gather(*threads, *(answer.wait() for answer in opened))
    return bundles


def messages_of(bundles: Iterable[list[tuple[int, bytes | None]]], wanted: int = 0) -> list[bytes | None]:
    return [message for bundle in bundles for number, message in bundle if number == wanted]


def texts(messages: Iterable[bytes | None]) -> list[str]:
    return [chunk.text for message in messages if message is not None for chunk in unpack_chunks(message)]


def test_the_chunks_of_all_answers_leave_in_order_and_in_few_bundles() -> None:
    answers = [ScriptedAnswer(*map(StreamChunk, "abcdefgh"), StreamChunk("", "stop")) for _ in range(8)]
    bundles = asyncio.run(read(*answers))
    for number in range(8):
        messages = messages_of(bundles, number)
        assert "".join(texts(messages)) == "abcdefgh"
        assert messages[-1] is None
        assert None not in messages[:-1]
    assert len(bundles) < 8 * 9


def test_a_first_chunk_leaves_while_its_answer_is_running() -> None:
    received = threading.Event()

    async def check() -> None:
        outbox = Outbox(0)
        running = run(outbox.open(0, ScriptedAnswer(StreamChunk("a"), received.wait, StreamChunk("b", "stop"))))
        parts = []
        async for bundle in outbox.bundles():
            parts += texts(messages_of([unpack_bundle(bundle)]))
            received.set()
        await running
        assert parts == ["a", "b"]

    asyncio.run(asyncio.wait_for(check(), 30))


def test_an_error_of_the_model_is_the_last_message() -> None:
    first, last, end = messages_of(asyncio.run(read(ScriptedAnswer(StreamChunk("a"), BusyError("full")))))
    assert texts([first]) == ["a"]
    assert end is None
    with pytest.raises(BusyError, match="full"):
        unpack_chunks(last or b"")


def test_exhausted_memory_is_reported_as_such() -> None:
    message = messages_of(asyncio.run(read(ScriptedAnswer(MemoryError()))))[0]
    with pytest.raises(Exception, match="memory"):
        unpack_chunks(message or b"")


def test_a_bug_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(read(ScriptedAnswer(StreamChunk("a"), ZeroDivisionError())))


def test_answers_end_with_the_call_that_carries_their_chunks() -> None:
    async def check() -> None:
        outbox, closed = Outbox(0), threading.Event()
        chunks = ScriptedAnswer(StreamChunk("a"), closed.wait, StreamChunk("b", "stop"))
        answer = outbox.open(1, chunks)
        running = run(answer)
        outbox.close()
        assert chunks.closed
        closed.set()
        with pytest.raises(ConnectionError):
            await answer.wait()
        await running

    asyncio.run(asyncio.wait_for(check(), 30))
