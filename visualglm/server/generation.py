"""Generation in threads: the event loop receives the chunks in batches, and cancels when the client disconnects.

If streamed, the first chunk of all answers and the end are delivered immediately. Chunks in between are delivered at
multiples of 20 ms, so that the event loop wakes up once for all running answers and not once for each chunk.
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
    """Finds stop strings in streamed text; holds back text that may be the start of one.

    Args:
        stop_strings: non-empty strings.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self.stop_strings = stop_strings
        self.pending = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; return the text that can be shown, and whether a stop string was found."""
        self.pending += text
        found = [index for stop in self.stop_strings if (index := self.pending.find(stop)) >= 0]
        if found:
            return self._release(min(found)), True
        return self._release(len(self.pending) - self._partial_match_length()), False

    def flush(self) -> str:
        """Return the text that was held back; for the end of an answer."""
        return self._release(len(self.pending))

    def _partial_match_length(self) -> int:
        """Return the length of the longest suffix of the pending text that is a prefix of a stop string."""
        longest = min(len(self.pending), max((len(stop) for stop in self.stop_strings), default=1) - 1)
        suffixes = (self.pending[-length:] for length in range(longest, 0, -1))
        return next((len(text) for text in suffixes if any(stop.startswith(text) for stop in self.stop_strings)), 0)

    def _release(self, length: int) -> str:
        shown, self.pending = self.pending[:length], self.pending[length:]
        return shown


def apply_stop_strings(chunks: Iterator[StreamChunk], stop_strings: Sequence[str]) -> Iterator[StreamChunk]:
    """Yield the chunks up to the first stop string, which ends the answer. Closing the iterator closes `chunks`."""
    stop_filter = StopStringFilter(stop_strings)
    generator: Any = chunks
    with closing(generator):
        for chunk in chunks:
            text, stopped = stop_filter.push(chunk.text)
            if stopped:
                yield replace(chunk, text=text, finish_reason="stop")
                return
            if chunk.finish_reason is not None:
                text += stop_filter.flush()
            yield replace(chunk, text=text)


def explain_at_end(
    chunks: Iterator[StreamChunk], explain: Callable[[str, Usage | None], None]
) -> Iterator[StreamChunk]:
    """Yield the chunks; call `explain` with the text and the usage of the answer before its end is yielded.

    The text is complete before, so that a client can read it meanwhile. The answer is closed, so that the engine does
    not continue an answer that a stop string has ended.
    """
    generator: Any = chunks
    text = ""
    with closing(generator):
        for chunk in chunks:
            text += chunk.text
            if chunk.finish_reason is None:
                yield chunk
                continue
            yield replace(chunk, finish_reason=None)
            generator.close()
            explain(text, chunk.usage)
            yield replace(chunk, text="", logprobs=())
            return


EVENT_INTERVAL_S = 0.02
ChunkSource = Callable[[], Iterator[StreamChunk]]
ExplainFunction = Callable[[str, Usage | None, Callable[[], bool]], dict[str, Any] | None]


class GenerationTask:
    """Generates the answers to one question concurrently, each in a thread.

    Args:
        pool: has a thread for each concurrent answer.
        sources: each starts an answer; closing the iterator that it returns cancels the answer.
        permits: one for each answer, released when its thread ends.
        stop_strings: strings before which each answer ends.
        explain: explains the only answer, given its text, its usage, and a function that tells whether it is cancelled;
            None if no explanation is requested.
        streamed: whether the client receives the answer while it is generated.
        deadline: event-loop time at which the answers time out.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        sources: Sequence[ChunkSource],
        permits: Sequence[Permit],
        stop_strings: Sequence[str] = (),
        *,
        explain: ExplainFunction | None = None,
        streamed: bool,
        deadline: float,
    ) -> None:
        self.started = time.perf_counter()
        self.first_token_s: float | None = None  # until the first token of any answer
        self.usages: list[Usage | None] = [None] * len(sources)  # the latest usage of each answer
        self.cancelled = False
        self.deadline = deadline
        self.explanation: dict[str, Any] | None = None  # set before the last chunk, as JSON values
        self.explanation_s: float | None = None  # its duration
        self._explain_answer = explain
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
            pool.submit(self._generate, index, source, permit)

    def cancel(self) -> None:
        """Cancel the answers.

        An answer that can be closed while its thread waits for a chunk ends immediately, another one at its next chunk.
        """
        self.cancelled = True
        for answer in list(self._open.values()):
            with contextlib.suppress(ValueError):  # a generator cannot be closed while a thread executes it
                answer.close()

    async def events(self) -> AsyncGenerator[list[tuple[int, StreamChunk]], None]:
        """Yield batches of (index of the answer, its new chunks merged). Closing the iterator cancels the answers.

        Without streaming, there is one batch, at the end.

        Raises:
            ApiError: 408, the deadline has passed.
            Exception: raised by the model.
        """
        alarm = self._loop.call_at(self.deadline, self._expire)
        try:
            while True:
                await self._new_data.wait()
                self._new_data.clear()
                for batch in self._merge_pending():
                    yield batch
                if self._complete and not self._pending:
                    return
                if self._timed_out:
                    raise timeout_error()
        finally:
            alarm.cancel()
            self.cancel()

    def _merge_pending(self) -> Iterator[list[tuple[int, StreamChunk]]]:
        """Yield the pending chunks, merged by answer; raise a pending error after the chunks that precede it."""
        with self._lock:
            pending, self._pending = self._pending, []
        merged: dict[int, StreamChunk] = {}
        for index, item in pending:
            if isinstance(item, Exception):
                if merged:
                    yield list(merged.items())
                raise item
            append_chunk(merged, index, item)
        shown = [
            (index, chunk) for index, chunk in merged.items() if chunk.text or chunk.finish_reason or chunk.logprobs
        ]
        if shown:
            yield shown

    def _generate(self, index: int, source: ChunkSource, permit: Permit) -> None:
        """Generate one answer; runs in a thread of the pool."""
        try:
            answer: Any = source()
            self._open[index] = answer
            with contextlib.closing(answer):
                if self.cancelled:  # before the answer could be closed
                    return
                for chunk in self._process(answer):
                    if self.cancelled:
                        return
                    self._enqueue(index, chunk)
        except Exception as error:  # raised again by `events`
            self._enqueue(index, error)
        finally:
            self._open.pop(index, None)
            with contextlib.suppress(RuntimeError):  # the event loop is closed, and permits no longer matter
                self._loop.call_soon_threadsafe(permit.release)

    def _process(self, answer: Iterator[StreamChunk]) -> Iterator[StreamChunk]:
        """Return the chunks of an answer, up to a stop string, with the explanation before the last chunk."""
        if self._stop_strings:
            answer = apply_stop_strings(answer, self._stop_strings)
        return answer if self._explain_answer is None else explain_at_end(answer, self._explain)

    def _explain(self, text: str, usage: Usage | None) -> None:
        assert self._explain_answer is not None
        if self.cancelled:
            return
        started = time.perf_counter()
        self.explanation = self._explain_answer(text, usage, lambda: self.cancelled)
        if self.explanation is not None:
            self.explanation_s = time.perf_counter() - started

    def _enqueue(self, index: int, item: StreamChunk | Exception) -> None:
        """Queue a chunk or error for the event loop; wake it at the end and, if streamed, for the first chunk."""
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
        """Deliver the pending chunks now, and from then on at every tick."""
        self._complete = self._complete or complete
        self._new_data.set()
        if not self._ticking:
            self._ticking = True
            self._flush_tick()

    def _flush_tick(self) -> None:
        """Deliver the pending chunks, and schedule the next tick. The ticks of all tasks coincide."""
        if self._complete or self.cancelled:
            return
        if self._pending:
            self._new_data.set()
        self._loop.call_at((self._loop.time() // EVENT_INTERVAL_S + 1) * EVENT_INTERVAL_S, self._flush_tick)


def append_chunk(answers: dict[int, StreamChunk], index: int, chunk: StreamChunk) -> None:
    """Merge a chunk into the ones of its answer: texts and log-probabilities are joined, the rest is the latest."""
    if (before := answers.get(index)) is not None:
        chunk = replace(chunk, text=before.text + chunk.text, logprobs=before.logprobs + chunk.logprobs)
    answers[index] = chunk


async def collect_answers(task: GenerationTask) -> list[StreamChunk]:
    """Return each answer as one chunk: the complete text, with the finish reason and usage of the last chunk."""
    answers: dict[int, StreamChunk] = {}
    async for batch in task.events():
        for index, chunk in batch:
            append_chunk(answers, index, chunk)
    return [answers[index] for index in sorted(answers)]
