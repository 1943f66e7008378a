"""Answers of the page: phases, the rate of events, cancellation, and the limit of concurrent answers."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the web page needs Gradio")

from model import CHINESE, DEMO, ENGLISH, BusyError, Conversation, StreamChunk, Usage
from model.chat_model import AnswerPhase
from model.description import Description
from visualglm.web.answers import AnswerSlots, AnswerTask, Question, choose_seed, decode_rate
from visualglm.web.errors import PageError, to_page_error


class SteppedAnswer:
    """An answer whose chunks the test releases one by one; any thread may close it."""

    def __init__(self) -> None:
        self.chunks: list[StreamChunk | Exception] = []
        self.phase = AnswerPhase("image")
        self.closed = False
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[StreamChunk]:
        return self

    def __next__(self) -> StreamChunk:
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.chunks)
            if self.closed:
                raise StopIteration
            chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def add(self, *chunks: StreamChunk | Exception) -> None:
        with self.changed:
            self.chunks += chunks
            self.changed.notify()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()


class Model:
    """A ChatModel that gives the same answer to every question."""

    image_size = 224
    description = Description("scripted")

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def stream_answer(self, *_: Any, **__: Any) -> Any:
        return self.answer


DONE = StreamChunk("", "stop", Usage(40, 3, 1, 0.5, 1.5))


def run(answer: Any, use: Any) -> list[dict[str, Any]]:
    """Start a task for an answer and call `use(event, task)` for each event; return the events."""

    async def collect() -> list[dict[str, Any]]:
        events = []
        ended = asyncio.Event()
        with ThreadPoolExecutor(1) as pool:
            question = Question(Model(answer), Conversation(), "What?", choose_seed(DEMO))
            task = AnswerTask(question, pool, ended.set)
            try:
                async for event in task.events():
                    events.append(event)
                    use(event, task)
            finally:
                task.cancel()
                await asyncio.wait_for(ended.wait(), 20)
        return events

    return asyncio.run(collect())


def test_each_phase_is_told_once_and_the_queue_shrinks() -> None:
    answer = SteppedAnswer()
    following = {
        "image": AnswerPhase("waiting", 2),
        ("waiting", 2): AnswerPhase("waiting", 1),
        ("waiting", 1): AnswerPhase("prompt"),
    }

    def advance(event: dict[str, Any], _: AnswerTask) -> None:
        key = (event["phase"], event["ahead"]) if "ahead" in event else event.get("phase")
        answer.phase = following.get(key, answer.phase)
        if key == "prompt":
            answer.add(StreamChunk("A star."), DONE)

    events = run(answer, advance)
    phases = [(event["phase"], event.get("ahead")) for event in events if event["type"] == "phase"]
    assert phases == [("image", None), ("waiting", 2), ("waiting", 1), ("prompt", None)]
    assert [event["type"] for event in events[-2:]] == ["text", "done"]
    done = events[-1]
    assert (done["tokens"], done["prompt_tokens"], done["dropped_turns"], done["tokens_per_s"]) == (3, 40, 1, 2.0)
    assert 0 <= done["seed"] < 2**32


def test_a_model_without_phases_gives_no_number() -> None:
    def generate() -> Iterator[StreamChunk]:
        release.wait(20)
        yield StreamChunk("A star.")

    release = threading.Event()
    events = run(generate(), lambda event, _: release.set() if event["type"] == "phase" else None)
    assert [event["type"] for event in events] == ["start", "phase", "text", "done"]
    assert "ahead" not in events[1]
    assert (events[-1]["finish_reason"], events[-1]["tokens"]) == ("stop", None)


def test_fast_chunks_are_merged_and_nothing_is_lost() -> None:
    answer = SteppedAnswer()
    answer.add(*(StreamChunk(f"{number} ") for number in range(1000)), DONE)
    events = run(answer, lambda *_: None)
    texts = [event["text"] for event in events if event["type"] == "text"]
    assert "".join(texts) == "".join(f"{number} " for number in range(1000))
    assert len(texts) < 100


def test_cancelling_ends_the_events_and_closes_the_answer() -> None:
    answer = SteppedAnswer()
    answer.add(StreamChunk("A "))
    events = run(answer, lambda event, task: task.cancel() if event["type"] == "text" else None)
    assert (events[-1]["type"], answer.closed) == ("text", True)


def test_a_generator_is_cancelled_at_its_next_chunk() -> None:
    closed = []

    def generate() -> Iterator[StreamChunk]:
        try:
            while True:
                yield StreamChunk("word ")
        finally:
            closed.append(True)

    events = run(generate(), lambda event, task: task.cancel() if event["type"] == "text" else None)
    assert ("done" in {event["type"] for event in events}, closed) == (False, [True])


def test_an_error_is_raised_after_the_text_before_it() -> None:
    answer, seen = SteppedAnswer(), []
    answer.add(StreamChunk("It "), BusyError("Later."))
    with pytest.raises(BusyError):
        run(answer, lambda event, _: seen.append(event.get("text")))
    assert seen[-1] == "It "


def test_only_unexpected_errors_are_hidden(caplog: pytest.LogCaptureFixture) -> None:
    known, unknown = to_page_error(BusyError("Later.")), to_page_error(ZeroDivisionError("inside"))
    assert (known.code, known.message(ENGLISH)) == ("busy", "Later.")
    for language in (CHINESE, ENGLISH):
        assert (unknown.code, "inside" in unknown.message(language)) == ("internal", False)
        assert unknown.values["id"] in unknown.message(language)
    assert unknown.values["id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert to_page_error(MemoryError()).code == "out_of_memory"


def test_slots_are_limited_per_visitor_and_in_total() -> None:
    slots = AnswerSlots(max_total=3, max_per_visitor=2)
    release = slots.acquire("a")
    slots.acquire("a")
    with pytest.raises(PageError, match="busy"):
        slots.acquire("a")
    slots.acquire(None)
    with pytest.raises(PageError, match="busy"):
        slots.acquire("b")
    release()
    slots.acquire("b")
    assert slots.by_visitor == {"a": 1, "b": 1}


def test_the_rate_is_that_of_decode_steps() -> None:
    assert decode_rate(Usage(10, 11, 0, 1.0, 3.0)) == 5.0
    assert decode_rate(Usage(10, 1, 0, 1.0, 1.0)) is None
