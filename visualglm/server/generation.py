"""Answers that threads write and the event loop reads: what comes within 20 ms is one event, leaving cancels.

The first piece and the end are sent at once. What comes between is sent at the multiples of 20 ms, so that the loop
wakes once for all answers that are being written, and not for each piece of each of them.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

from model import StreamChunk, Usage

from .admission import Permit
from .api_errors import timeout_error


class StopStringFilter:
    """Holds back what may become a stop string.

    Args:
        stops: the strings, none of them empty.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self.stop_strings = stop_strings
        self.pending = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what may be shown now, and whether a stop string has come."""
        self.pending += text
        found = [place for stop in self.stop_strings if (place := self.pending.find(stop)) >= 0]
        if found:
            return self._release(min(found)), True
        return self._release(len(self.pending) - self._partial_match_length()), False

    def flush(self) -> str:
        """Return what was held back in vain."""
        return self._release(len(self.pending))

    def _partial_match_length(self) -> int:
        """Return the length of the longest end that a stop string begins with."""
        longest = min(len(self.pending), max((len(stop) for stop in self.stop_strings), default=1) - 1)
        ends = (self.pending[-length:] for length in range(longest, 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self.stop_strings)), 0)

    def _release(self, length: int) -> str:
        shown, self.pending = self.pending[:length], self.pending[length:]
        return shown


def apply_stop_strings(chunks: Iterator[StreamChunk], stop_strings: Sequence[str]) -> Iterator[StreamChunk]:
    """Yield the pieces up to the first stop string, which ends the answer; closing it closes `chunks`."""
    stop_filter = StopStringFilter(stop_strings)
    generator: Any = chunks
    with closing(generator):
        for chunk in chunks:
            text, stopped = stop_filter.push(chunk.text)
            if stopped:
                yield StreamChunk(text, "stop", chunk.usage)
                return
            if chunk.finish_reason is not None:
                text += stop_filter.flush()
            yield replace(chunk, text=text)


EVENT_INTERVAL_S = 0.02
ChunkSource = Callable[[], Iterator[StreamChunk]]


class GenerationTask:
    """The answers to one question, written side by side.

    Args:
        pool: threads, one for each answer that may be under way.
        writes: each starts an answer; closing what it returns cancels the answer.
        slots: the place of each, given back when its thread has ended.
        stops: strings before which each answer ends.
        streamed: whether somebody wants to read before the end.
        deadline: of the event loop's clock, when it must be over.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        sources: Sequence[ChunkSource],
        permits: Sequence[Permit],
        stop_strings: Sequence[str] = (),
        *,
        streamed: bool,
        deadline: float,
    ) -> None:
        self.started = time.perf_counter()
        self.first_token_s: float | None = None  # until the first token of all
        self.usages: list[Usage | None] = [None] * len(sources)  # what each has taken so far
        self.cancelled = False
        self.deadline = deadline
        self._stop_strings = stop_strings
        self._streamed = streamed
        self._open: dict[int, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pending: list[tuple[int, StreamChunk | Exception]] = []
        self._unfinished = len(sources)
        self._new_data = asyncio.Event()
        self._complete = False
        self._timed_out = False
        self._ticking = False
        for index, (source, permit) in enumerate(zip(sources, permits, strict=True)):
            permit.retain()
            pool.submit(self._write, index, source, permit)

    def cancel(self) -> None:
        """End the answers: those that can be closed while they are waited for at once, others at their next step."""
        self.cancelled = True
        for answer in list(self._open.values()):
            with contextlib.suppress(ValueError):  # a generator that is being waited for
                answer.close()

    async def events(self) -> AsyncGenerator[list[tuple[int, StreamChunk]], None]:
        """Yield what has come as (number of the answer, piece), at most one for each answer and event.

        Not streamed, everything comes at once. Leaving cancels.

        Raises:
            Refusal: 408, the deadline has come.
            Exception: what the model raised.
        """
        alarm = self._loop.call_at(self.deadline, self._expire)
        try:
            while True:
                await self._new_data.wait()
                self._new_data.clear()
                for event in self._merge_pending():
                    yield event
                if self._complete and not self._pending:
                    return
                self._check_time()
        finally:
            alarm.cancel()
            self.cancel()

    def _check_time(self) -> None:
        """End the answer where its time is over.

        Raises:
            Refusal: 408, it is over.
        """
        if self._timed_out:
            raise timeout_error()

    def _merge_pending(self) -> Iterator[list[tuple[int, StreamChunk]]]:
        """Yield what has arrived, joined; raise an error where it stands in it."""
        with self._lock:
            arrived, self._pending = self._pending, []
        joined: dict[int, StreamChunk] = {}
        for index, item in arrived:
            if isinstance(item, Exception):
                if joined:
                    yield list(joined.items())
                raise item
            before = joined.get(index)
            text = before.text + item.text if before else item.text
            joined[index] = StreamChunk(text, item.finish_reason, item.usage)
        shown = [(index, chunk) for index, chunk in joined.items() if chunk.text or chunk.finish_reason]
        if shown:
            yield shown

    def _write(self, index: int, source: ChunkSource, permit: Permit) -> None:
        """Write one answer; runs in a thread."""
        try:
            answer: Any = source()
            self._open[index] = answer
            with contextlib.closing(answer):
                if self.cancelled:  # before there was anything to close
                    return
                for chunk in apply_stop_strings(answer, self._stop_strings) if self._stop_strings else answer:
                    if self.cancelled:
                        return
                    self._enqueue(index, chunk)
        except Exception as error:  # handed over, to be raised where somebody waits
            self._enqueue(index, error)
        finally:
            self._open.pop(index, None)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody counts any more
                self._loop.call_soon_threadsafe(permit.release)

    def _enqueue(self, index: int, item: StreamChunk | Exception) -> None:
        if isinstance(item, Exception):
            ended, failed = False, True
        else:
            ended, failed = item.finish_reason is not None, False
            self.usages[index] = item.usage
        first = self.first_token_s is None and not failed
        if first:
            self.first_token_s = time.perf_counter() - self.started
        with self._lock:
            self._pending.append((index, item))
            self._unfinished -= ended
            complete = failed or self._unfinished == 0
        if complete or (first and self._streamed):
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._notify, complete)

    def _expire(self) -> None:
        self._timed_out = True
        self._new_data.set()

    def _notify(self, complete: bool) -> None:
        """Let the reader read at once, and from now on at every beat."""
        self._complete = self._complete or complete
        self._new_data.set()
        if not self._ticking:
            self._ticking = True
            self._flush_tick()

    def _flush_tick(self) -> None:
        """Let the reader read what has come, until it is over. All answers have the same beat."""
        if self._complete or self.cancelled:
            return
        if self._pending:
            self._new_data.set()
        self._loop.call_at((self._loop.time() // EVENT_INTERVAL_S + 1) * EVENT_INTERVAL_S, self._flush_tick)


async def collect_answers(task: GenerationTask) -> list[StreamChunk]:
    """Return each answer whole, its last piece's reason and usage with it."""
    whole: dict[int, StreamChunk] = {}
    async for event in task.events():
        for index, chunk in event:
            text = whole[index].text + chunk.text if index in whole else chunk.text
            whole[index] = StreamChunk(text, chunk.finish_reason, chunk.usage)
    return [whole[index] for index in sorted(whole)]
