"""Requests of many threads are answered side by side, each as it would be alone."""

import copy
import gc
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest
import torch

from model.engine import Request, Scheduler, TokenOutput, TokenStream, generate, get_scheduler
from model.engine.sequence import RequestHandle
from model.errors import BusyError, GenerationError
from model.visualglm import VisualGLMModel
from tests.conftest import build_model
from tests.model.engine.test_batch import END, GREEDY, draw_requests, prompts  # noqa: F401  (a fixture)

LONG = GREEDY.replace(max_new_tokens=150, min_length=2000, max_length=2000)


@pytest.fixture
def scheduler(golden_model: VisualGLMModel) -> Iterator[Scheduler]:
    scheduler = Scheduler(golden_model, eos_token_id=END, max_batch_size=3, capacity=300, max_queue_size=4)
    yield scheduler
    scheduler.close()


def wait_until(condition: Any) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 30
        time.sleep(0.002)


def test_threads_get_the_answers_that_each_would_get_alone(
    golden_model: VisualGLMModel,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    requests = draw_requests(prompts, 24, seed=11)
    scheduler = Scheduler(golden_model, eos_token_id=END, max_batch_size=3, capacity=300)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: list(scheduler.submit(request)), requests))
    scheduler.close()
    assert answers == [list(generate(golden_model, request, eos_token_id=END)) for request in requests]


def test_first_come_first_served(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    running = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for steps in running:
        next(steps)
    waiting = [scheduler.submit(Request(config=GREEDY.replace(max_new_tokens=n), **prompts[1])) for n in (5, 2)]
    running[0].close()  # one row, which both have to take in turn
    first = list(waiting[0])
    assert len(first) == 5
    assert len(list(waiting[1])) == 2
    assert all(isinstance(next(steps), TokenOutput) for steps in running[1:])


def test_a_full_queue_refuses(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    held = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for steps in held:
        next(steps)
    held += [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(4)]
    with pytest.raises(BusyError, match="waiting"):
        scheduler.submit(Request(config=LONG, **prompts[0]))
    held[0].close()
    wait_until(lambda: len(scheduler.waiting) < 4)
    held.append(scheduler.submit(Request(config=LONG, **prompts[0])))
    for steps in held:
        steps.close()


def test_a_cancelled_request_frees_its_place(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    steps = scheduler.submit(Request(config=LONG, **prompts[0]))
    next(steps)
    assert scheduler.batch.free_slots == 2
    steps.close()
    wait_until(lambda: scheduler.batch.free_slots == 3)
    assert not scheduler.running


def test_steps_that_have_come_are_taken_together(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    request = Request(config=GREEDY.replace(max_new_tokens=9), **prompts[0])
    single, steps = list(scheduler.submit(request)), scheduler.submit(request)
    assert steps.handle.finished.wait(30)
    assert list(steps.batches(1e-3)) == [single]
    assert list(steps) == list(steps.batches(1e-3)) == []
    steps = scheduler.submit(request)
    assert steps.handle.finished.wait(30)
    assert list(steps.batches(0.0)) == [[step] for step in single]


def test_steps_before_an_error_come_before_it() -> None:
    handle = RequestHandle(Request([5], GREEDY), queue.SimpleQueue())
    for reply in (TokenOutput(1), TokenOutput(2), GenerationError("broken")):
        handle.put(reply)
    together = TokenStream(handle).batches(1e-3)
    assert next(together) == [TokenOutput(1), TokenOutput(2)]
    with pytest.raises(GenerationError, match="broken"):
        next(together)


@pytest.mark.parametrize("read", [0, 2, 9])
def test_what_is_over_is_let_go_at_once(
    read: int,
    scheduler: Scheduler,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    """Not when Python collects garbage, which it may put off for minutes: pictures on a GPU would fill it."""
    gc.disable()
    try:
        images = prompts[0]["images"].clone()
        kept = weakref.ref(images)
        steps = scheduler.submit(Request(config=GREEDY.replace(max_new_tokens=5), **{**prompts[0], "images": images}))
        del images
        for _ in islice(steps, read):
            pass
        steps.close()
        del steps
        wait_until(lambda: scheduler.is_idle and kept() is None)
    finally:
        gc.enable()


def test_closing_ends_the_wait_of_another_thread(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    held = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for steps in held:
        next(steps)
    waiting = scheduler.submit(Request(config=LONG, **prompts[0]))
    with ThreadPoolExecutor() as pool:
        read = pool.submit(list, waiting)
        waiting.close()
        assert read.result(timeout=30) == []
    wait_until(lambda: not scheduler.waiting)
    for steps in held:
        steps.close()


def test_an_error_ends_one_request(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    fine = scheduler.submit(Request(config=LONG, **prompts[0]))
    next(fine)
    broken = {**prompts[0], "images": torch.full_like(prompts[0]["images"], float("nan"))}
    with pytest.raises(GenerationError, match="not numbers"):
        list(scheduler.submit(Request(config=GREEDY, **broken)))
    assert isinstance(next(fine), TokenOutput)
    fine.close()


def test_a_bug_in_the_network_ends_what_is_running_and_no_more(
    scheduler: Scheduler,
    prompts: list[dict[str, Any]],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(2)]
    for steps in running:
        next(steps)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler.batch.decoder, "decode", lambda tokens, longest: 1 / 0)
        for steps in running:
            with pytest.raises(ZeroDivisionError):
                list(steps)
    assert len(list(scheduler.submit(Request(config=GREEDY.replace(max_new_tokens=3), **prompts[0])))) == 3


def test_too_long_a_prompt_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(GenerationError, match="299"):
        scheduler.submit(Request([5] * 300, GREEDY))


def test_closing_ends_everything(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    scheduler = Scheduler(golden_model, eos_token_id=END, max_batch_size=1, capacity=300)
    running, waiting = (scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(2))
    next(running)
    scheduler.close()
    for steps in (running, waiting):
        with pytest.raises(GenerationError, match="shut down"):
            list(steps)
    with pytest.raises(GenerationError, match="questions"):
        scheduler.submit(Request(config=LONG, **prompts[0]))
    assert threading.active_count() < 50


def test_a_scheduler_is_shared_until_weights_are_exchanged_and_ends_with_its_network(
    golden_spec: Any,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    model = build_model(golden_spec)
    first = get_scheduler(model, END)
    assert len(list(first.submit(Request(config=GREEDY.replace(max_new_tokens=3), **prompts[0])))) == 3
    assert get_scheduler(model, END) is first
    layer = model.transformer.layers[0].attention
    layer.dense = copy.deepcopy(layer.dense)
    second = get_scheduler(model, END)
    assert second is not first
    thread, died = first.thread, weakref.ref(model)
    del model, layer
    gc.collect()
    assert died() is None and first.closed and second.closed
    assert thread is None or not thread.is_alive()


def test_what_the_memory_does_not_suffice_for_waits_until_others_have_ended(
    scheduler: Scheduler,
    prompts: list[dict[str, Any]],  # noqa: F811
    golden_model: VisualGLMModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, grow = scheduler.batch.decoder, scheduler.batch.decoder.grow

    def grow_a_little(slots: int, capacity: int) -> None:
        if slots > 1 or capacity > 257:
            raise torch.OutOfMemoryError("tried to allocate too much")
        grow(slots, capacity)

    monkeypatch.setattr(decoder, "grow", grow_a_little)
    short = GREEDY.replace(max_new_tokens=9)
    running = scheduler.submit(Request(config=short.replace(max_new_tokens=40), **prompts[0]))
    next(running)
    waiting = [scheduler.submit(Request(config=short, **prompts[n])) for n in (1, 2)]
    answers = [list(running), *(list(steps) for steps in waiting)]
    assert [len(steps) for steps in answers] == [39, 9, 9]
    assert answers[2] == list(generate(golden_model, Request(config=short, **prompts[2]), eos_token_id=END))
    for _ in range(2):  # too much even alone
        with pytest.raises(GenerationError, match="memory"):
            list(scheduler.submit(Request(config=LONG.replace(max_new_tokens=270), **prompts[0])))
    assert len(list(scheduler.submit(Request(config=short, **prompts[0])))) == 9
