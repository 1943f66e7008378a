"""The replica: lists of chunks, errors as values, cancellation."""

import asyncio
from collections.abc import Iterator

import pytest

from model import BusyError, StreamChunk
from visualglm.scale.replica import AnswerPump, group_chunks
from visualglm.scale.wire import unpack_chunks


def chunks(*texts: str) -> Iterator[StreamChunk]:
    """Yield chunks, the last one marked."""
    for text in texts[:-1]:
        yield StreamChunk(text)
    yield StreamChunk(texts[-1], "stop")


def test_the_first_and_the_last_chunk_are_not_delayed() -> None:
    moment = iter(range(100))
    groups = list(group_chunks(chunks(*"abcdef"), 1000, lambda: next(moment)))
    assert [[chunk.text for chunk in group] for group in groups] == [["a"], ["b", "c", "d", "e", "f"]]


def test_chunks_within_an_interval_are_one_list() -> None:
    times = iter([0.0, 0.02, 0.04, 0.06, 0.06, 0.08, 0.2])
    groups = list(group_chunks(chunks(*"abcdef"), 0.05, lambda: next(times)))
    assert ["".join(chunk.text for chunk in group) for group in groups] == ["a", "bcd", "ef"]


class ScriptedAnswer:
    """Yields items, and raises the exceptions among them."""

    def __init__(self, *items: StreamChunk | Exception) -> None:
        self.items = iter(items)
        self.closed = False

    def __iter__(self) -> "ScriptedAnswer":
        return self

    def __next__(self) -> StreamChunk:
        item = next(self.items)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed = True


async def read(answer: ScriptedAnswer, limit: int | None = None) -> list[bytes]:
    """Return the messages of an answer; stop after `limit`."""
    pump = AnswerPump(answer)
    running = asyncio.get_running_loop().run_in_executor(None, pump.run)
    stream, messages = pump.stream(), []
    try:
        async for message in stream:
            messages.append(message)
            if len(messages) == limit:
                break
        return messages
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
        await running


def test_an_error_of_the_model_is_the_last_message() -> None:
    messages = asyncio.run(read(ScriptedAnswer(StreamChunk("a"), BusyError("full"))))
    assert unpack_chunks(messages[0]) == [StreamChunk("a")]
    with pytest.raises(BusyError, match="full"):
        unpack_chunks(messages[-1])


def test_exhausted_memory_is_reported_as_such() -> None:
    messages = asyncio.run(read(ScriptedAnswer(MemoryError())))
    with pytest.raises(Exception, match="memory"):
        unpack_chunks(messages[-1])


def test_a_bug_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(read(ScriptedAnswer(StreamChunk("a"), ZeroDivisionError())))


def test_closing_the_stream_closes_the_answer() -> None:
    answer = ScriptedAnswer(StreamChunk("a"), StreamChunk("b", "stop"))
    asyncio.run(read(answer, limit=1))
    assert answer.closed
