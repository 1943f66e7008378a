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

from .limits import Slot
from .refusals import timed_out


class StopStrings:
    """Holds back what may become a stop string.

    Args:
        stops: the strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what may be shown now, and whether a stop string has come."""
        self.held += text
        found = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            return self._show(min(found)), True
        return self._show(len(self.held) - self._started()), False

    def flush(self) -> str:
        """Return what was held back in vain."""
        return self._show(len(self.held))

    def _started(self) -> int:
        """Return the length of the longest end that a stop string begins with."""
        longest = min(len(self.held), max((len(stop) for stop in self.stops), default=1) - 1)
        ends = (self.held[-length:] for length in range(longest, 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self.stops)), 0)

    def _show(self, length: int) -> str:
        shown, self.held = self.held[:length], self.held[length:]
        return shown


def cut_at_stops(pieces: Iterator[StreamChunk], stops: Sequence[str]) -> Iterator[StreamChunk]:
    """Yield the pieces up to the first stop string, which ends the answer; closing it closes `pieces`."""
    watch = StopStrings(stops)
    generator: Any = pieces
    with closing(generator):
        for piece in pieces:
            text, stopped = watch.push(piece.text)
            if stopped:
                yield StreamChunk(text, "stop", piece.usage)
                return
            if piece.finish_reason is not None:
                text += watch.flush()
            yield replace(piece, text=text)


EVENT_S = 0.02
Write = Callable[[], Iterator[StreamChunk]]


class Answering:
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
        writes: Sequence[Write],
        slots: Sequence[Slot],
        stops: Sequence[str] = (),
        *,
        streamed: bool,
        deadline: float,
    ) -> None:
        self.started = time.perf_counter()
        self.first_s: float | None = None  # until the first token of all
        self.usages: list[Usage | None] = [None] * len(writes)  # what each has taken so far
        self.cancelled = False
        self.deadline = deadline
        self._stops = stops
        self._streamed = streamed
        self._open: dict[int, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._arrived: list[tuple[int, StreamChunk | Exception]] = []
        self._left = len(writes)
        self._news = asyncio.Event()
        self._complete = False
        self._late = False
        self._beating = False
        for number, (write, slot) in enumerate(zip(writes, slots, strict=True)):
            slot.hold()
            pool.submit(self._write, number, write, slot)

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
                await self._news.wait()
                self._news.clear()
                for event in self._take():
                    yield event
                if self._complete and not self._arrived:
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
        if self._late:
            raise timed_out()

    def _take(self) -> Iterator[list[tuple[int, StreamChunk]]]:
        """Yield what has arrived, joined; raise an error where it stands in it."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
        joined: dict[int, StreamChunk] = {}
        for number, item in arrived:
            if isinstance(item, Exception):
                if joined:
                    yield list(joined.items())
                raise item
            before = joined.get(number)
            text = before.text + item.text if before else item.text
            joined[number] = StreamChunk(text, item.finish_reason, item.usage)
        shown = [(number, piece) for number, piece in joined.items() if piece.text or piece.finish_reason]
        if shown:
            yield shown

    def _write(self, number: int, write: Write, slot: Slot) -> None:
        """Write one answer; runs in a thread."""
        try:
            answer: Any = write()
            self._open[number] = answer
            with contextlib.closing(answer):
                if self.cancelled:  # before there was anything to close
                    return
                for piece in cut_at_stops(answer, self._stops) if self._stops else answer:
                    if self.cancelled:
                        return
                    self._put(number, piece)
        except Exception as error:  # handed over, to be raised where somebody waits
            self._put(number, error)
        finally:
            self._open.pop(number, None)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody counts any more
                self._loop.call_soon_threadsafe(slot.release)

    def _put(self, number: int, item: StreamChunk | Exception) -> None:
        if isinstance(item, Exception):
            ended, failed = False, True
        else:
            ended, failed = item.finish_reason is not None, False
            self.usages[number] = item.usage
        first = self.first_s is None and not failed
        if first:
            self.first_s = time.perf_counter() - self.started
        with self._lock:
            self._arrived.append((number, item))
            self._left -= ended
            complete = failed or self._left == 0
        if complete or (first and self._streamed):
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake, complete)

    def _expire(self) -> None:
        self._late = True
        self._news.set()

    def _wake(self, complete: bool) -> None:
        """Let the reader read at once, and from now on at every beat."""
        self._complete = self._complete or complete
        self._news.set()
        if not self._beating:
            self._beating = True
            self._beat()

    def _beat(self) -> None:
        """Let the reader read what has come, until it is over. All answers have the same beat."""
        if self._complete or self.cancelled:
            return
        if self._arrived:
            self._news.set()
        self._loop.call_at((self._loop.time() // EVENT_S + 1) * EVENT_S, self._beat)


async def collect(answering: Answering) -> list[StreamChunk]:
    """Return each answer whole, its last piece's reason and usage with it."""
    whole: dict[int, StreamChunk] = {}
    async for event in answering.events():
        for number, piece in event:
            text = whole[number].text + piece.text if number in whole else piece.text
            whole[number] = StreamChunk(text, piece.finish_reason, piece.usage)
    return [whole[number] for number in sorted(whole)]
