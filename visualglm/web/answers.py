"""Answers of the page: validate a question, generate the answer in a thread, and stream its events."""

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from model import ChatModel, Conversation, GenerationConfig, StreamChunk, Usage

from .errors import PageError
from .settings import SEED_BITS

EVENT_INTERVAL_S = 0.05  # between two text events
POLL_INTERVAL_S = 0.1  # between two looks at the phase of an answer that has no text yet
Event = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A validated question.

    Attributes:
        config: its seed is set.
    """

    model: ChatModel
    conversation: Conversation
    text: str
    config: GenerationConfig


def choose_seed(config: GenerationConfig) -> GenerationConfig:
    """Return the settings with a random seed, unless they have a seed."""
    return config.replace(seed=secrets.randbits(SEED_BITS)) if config.seed is None else config


class AnswerTask:
    """Generates an answer in a thread; the event loop receives it as events.

    Args:
        question: the question.
        pool: has a thread for each concurrent answer.
        on_end: called on the event loop when the thread has ended.
    """

    def __init__(self, question: Question, pool: ThreadPoolExecutor, on_end: Callable[[], None]) -> None:
        self.question = question
        self.on_end = on_end
        self.started = time.perf_counter()
        self.cancelled = False
        self._answer: Any = None
        self._chunks: list[StreamChunk] = []
        self._error: Exception | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()
        pool.submit(self._generate)

    def cancel(self) -> None:
        """Cancel the answer: immediately if any thread may close the iterator, else at its next chunk."""
        self.cancelled = True
        with contextlib.suppress(ValueError):  # a generator cannot be closed while a thread executes it
            if self._answer is not None:
                self._answer.close()

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events up to "done"; an answer that was cancelled ends without it.

        Raises:
            Exception: raised by the model.
        """
        seed = self.question.config.seed
        yield {"type": "start", "seed": seed}
        async for phase in self._phases():
            yield phase
        usage: Usage | None = None
        while True:
            await self._changed.wait()
            chunks, ended = self._take()
            if chunks:
                usage = chunks[-1].usage
                if text := "".join(chunk.text for chunk in chunks):
                    yield {
                        "type": "text",
                        "text": text,
                        "tokens": usage and usage.answer_tokens,
                        "seconds": self._seconds,
                    }
                if reason := chunks[-1].finish_reason:
                    yield done_event(reason, usage, seed, self._seconds)
                    return
            if ended:
                if self._error is not None:
                    raise self._error
                if not self.cancelled:  # a model that does not report why it ended
                    yield done_event("stop", usage, seed, self._seconds)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), EVENT_INTERVAL_S)

    @property
    def _seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)

    async def _phases(self) -> AsyncIterator[Event]:
        """Yield an event for each new phase, until there is text or the answer has ended."""
        last: Event | None = None
        while not self._changed.is_set():
            phase = self._phase()
            if phase is not None and phase != last:
                yield (last := phase)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), POLL_INTERVAL_S)

    def _phase(self) -> Event | None:
        phase = getattr(self._answer, "phase", None)
        if phase is None:  # it has not started, or is the iterator of another implementation of ChatModel
            return None if self._answer is None else {"type": "phase", "phase": "prompt"}
        if phase.name == "text":
            return None
        ahead = {"ahead": phase.requests_ahead} if phase.name == "waiting" else {}
        return {"type": "phase", "phase": phase.name, **ahead}

    def _generate(self) -> None:
        """Generate the answer; runs in a thread of the pool."""
        question = self.question
        try:
            if not self.cancelled:
                self._answer = question.model.stream_answer(question.conversation, question.text, question.config)
                with contextlib.closing(self._answer):
                    if self.cancelled:  # before the answer could be closed
                        return
                    for chunk in self._answer:
                        if self.cancelled:
                            return
                        self._put(chunk)
        except Exception as error:  # raised again by `events`
            self._error = error
        finally:
            self._put(None)
            self._notify(self.on_end)

    def _put(self, chunk: StreamChunk | None) -> None:
        """Add a chunk, or None at the end; wake the event loop unless it has been woken already."""
        with self._lock:
            wake = not self._chunks
            if chunk is None:
                self._ended = wake = True
            else:
                self._chunks.append(chunk)
        if wake:
            self._notify(self._changed.set)
        if chunk is None or chunk.finish_reason:
            self._notify(self._finished.set)

    def _take(self) -> tuple[list[StreamChunk], bool]:
        with self._lock:
            chunks, self._chunks = self._chunks, []
            if not self._ended:
                self._changed.clear()
            return chunks, self._ended

    def _notify(self, callback: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(callback)


def done_event(finish_reason: str, usage: Usage | None, seed: int | None, seconds: float) -> Event:
    """Return the event at the end of an answer; numbers are None if the model does not report its usage."""
    event: Event = {"type": "done", "finish_reason": finish_reason, "seconds": seconds, "seed": seed}
    if usage is None:
        names = ("tokens", "prompt_tokens", "first_token_s", "tokens_per_s")
        return {**event, **dict.fromkeys(names), "dropped_turns": 0}
    return {
        **event,
        "tokens": usage.answer_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "first_token_s": round(usage.first_token_s, 3),
        "seconds": round(usage.total_s, 3),
        "tokens_per_s": decode_rate(usage),
        "dropped_turns": usage.dropped_turns,
    }


def decode_rate(usage: Usage) -> float | None:
    """Return tokens per second after the first token; None for an answer of one token."""
    seconds = usage.total_s - usage.first_token_s
    return round((usage.answer_tokens - 1) / seconds, 2) if usage.answer_tokens > 1 and seconds > 0 else None


class AnswerSlots:
    """Limits the number of concurrent answers, in total and for each visitor. For use on the event loop only.

    Args:
        max_total: answers of all visitors.
        max_per_visitor: answers of one visitor.
    """

    def __init__(self, max_total: int, max_per_visitor: int) -> None:
        self.max_total = max_total
        self.max_per_visitor = max_per_visitor
        self.by_visitor: dict[str, int] = {}
        self.total = 0

    def acquire(self, visitor: str | None) -> Callable[[], None]:
        """Count an answer; return the function that ends the counting.

        Args:
            visitor: login or address; None if only the total limit applies.

        Raises:
            PageError: busy, a limit is reached.
        """
        count = self.by_visitor.get(visitor, 0) if visitor is not None else 0
        if self.total >= self.max_total or count >= self.max_per_visitor:
            raise PageError("busy")
        self.total += 1
        if visitor is not None:
            self.by_visitor[visitor] = count + 1
        return lambda: self._release(visitor)

    def _release(self, visitor: str | None) -> None:
        self.total -= 1
        if visitor is not None:
            self.by_visitor[visitor] -= 1
            if not self.by_visitor[visitor]:
                del self.by_visitor[visitor]
