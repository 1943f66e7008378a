"""Concurrent requests are answered in one batch, with the same outputs as separate generation."""

import copy
import gc
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
import torch

from model.engine import Request, Scheduler, TokenOutput, TokenStream, generate, get_scheduler, scheduler as scheduling
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


def test_concurrent_requests_equal_separate_generation(
    golden_model: VisualGLMModel,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    requests = draw_requests(prompts, 24, seed=11)
    scheduler = Scheduler(golden_model, eos_token_id=END, max_batch_size=3, capacity=300)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: list(scheduler.submit(request)), requests))
    scheduler.close()
    assert answers == [list(generate(golden_model, request, eos_token_id=END)) for request in requests]


def test_requests_are_served_in_fifo_order(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    running = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for stream in running:
        next(stream)
    waiting = [scheduler.submit(Request(config=GREEDY.replace(max_new_tokens=n), **prompts[1])) for n in (5, 2)]
    running[0].close()  # frees one slot, which the two requests use one after the other
    first = list(waiting[0])
    assert len(first) == 5
    assert len(list(waiting[1])) == 2
    assert all(isinstance(next(stream), TokenOutput) for stream in running[1:])


def test_few_groups_of_prompts_are_prefilled_between_decode_steps(
    golden_model: VisualGLMModel,
    prompts: list[dict[str, Any]],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take, events = scheduling.take_prefill_group, []
    monkeypatch.setattr(scheduling, "take_prefill_group", lambda waiting, most, of: take(waiting, min(most, 1), of))
    scheduler = Scheduler(golden_model, eos_token_id=END, max_batch_size=8, capacity=300)
    monkeypatch.setattr(scheduler.batch.decoder, "prefill_groups", 2)
    for name in ("continue_prefill", "step"):
        method = getattr(scheduler.batch, name)
        monkeypatch.setattr(
            scheduler.batch, name, lambda *args, name=name, method=method: events.append(name) or method(*args)
        )
    with closing(scheduler):
        with scheduler.changed:  # all of them wait before the first is prefilled
            streams = [scheduler.submit(Request(config=LONG, **prompts[1])) for _ in range(5)]
        for stream in streams:
            assert isinstance(next(stream), TokenOutput)
            assert isinstance(next(stream), TokenOutput)
    two, one = ["continue_prefill"] * 2, ["continue_prefill"]
    assert events[:8] == [*two, "step", *two, "step", *one, "step"]


def test_a_full_queue_raises_busy_error(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    streams = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for stream in streams:
        next(stream)
    streams += [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(4)]
    with pytest.raises(BusyError, match="waiting"):
        scheduler.submit(Request(config=LONG, **prompts[0]))
    streams[0].close()
    wait_until(lambda: len(scheduler.waiting) < 4)
    streams.append(scheduler.submit(Request(config=LONG, **prompts[0])))
    for stream in streams:
        stream.close()


def test_a_waiting_request_knows_how_many_are_before_it(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    running = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for stream in running:
        next(stream)
    waiting = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    assert [scheduler.requests_ahead(stream) for stream in (*running, *waiting)] == [None, None, None, 0, 1, 2]
    waiting[0].close()
    wait_until(lambda: scheduler.requests_ahead(waiting[2]) == 1)
    assert scheduler.requests_ahead(waiting[0]) is None


def test_a_cancelled_request_frees_its_slot(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    stream = scheduler.submit(Request(config=LONG, **prompts[0]))
    next(stream)
    assert scheduler.batch.free_slots == 2
    stream.close()
    wait_until(lambda: scheduler.batch.free_slots == 3)
    assert not scheduler.running


def test_available_outputs_are_yielded_in_one_list(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    request = Request(config=GREEDY.replace(max_new_tokens=9), **prompts[0])
    single, stream = list(scheduler.submit(request)), scheduler.submit(request)
    assert stream.handle.finished.wait(30)
    assert list(stream.batches(1e-3)) == [single]
    assert list(stream) == list(stream.batches(1e-3)) == []
    stream = scheduler.submit(request)
    assert stream.handle.finished.wait(30)
    assert list(stream.batches(0.0)) == [[output] for output in single]


def test_outputs_before_an_error_are_yielded_first() -> None:
    handle = RequestHandle(Request([5], GREEDY), queue.SimpleQueue())
    for output in (TokenOutput(1), TokenOutput(2), GenerationError("broken")):
        handle.put(output)
    batches = TokenStream(handle).batches(1e-3)
    assert next(batches) == [TokenOutput(1), TokenOutput(2)]
    with pytest.raises(GenerationError, match="broken"):
        next(batches)


@pytest.mark.parametrize("tokens_read", [0, 2, 9])
def test_a_finished_request_is_freed_without_the_garbage_collector(
    tokens_read: int,
    scheduler: Scheduler,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    """Garbage collection may be delayed for minutes, in which unreferenced images could fill the GPU's memory."""
    gc.disable()
    try:
        images = prompts[0]["images"].clone()
        kept = weakref.ref(images)
        stream = scheduler.submit(Request(config=GREEDY.replace(max_new_tokens=5), **{**prompts[0], "images": images}))
        del images
        for _ in islice(stream, tokens_read):
            pass
        stream.close()
        del stream
        wait_until(lambda: scheduler.is_idle and kept() is None)
    finally:
        gc.enable()


def test_closing_a_stream_wakes_a_waiting_thread(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    streams = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(3)]
    for stream in streams:
        next(stream)
    waiting = scheduler.submit(Request(config=LONG, **prompts[0]))
    with ThreadPoolExecutor() as pool:
        future = pool.submit(list, waiting)
        waiting.close()
        assert future.result(timeout=30) == []
    wait_until(lambda: not scheduler.waiting)
    for stream in streams:
        stream.close()


def test_an_error_fails_only_its_own_request(scheduler: Scheduler, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    running = scheduler.submit(Request(config=LONG, **prompts[0]))
    next(running)
    nan_prompt = {**prompts[0], "images": torch.full_like(prompts[0]["images"], float("nan"))}
    with pytest.raises(GenerationError, match="not numbers"):
        list(scheduler.submit(Request(config=GREEDY, **nan_prompt)))
    assert isinstance(next(running), TokenOutput)
    running.close()


def test_an_exception_in_the_network_fails_only_the_running_requests(
    scheduler: Scheduler,
    prompts: list[dict[str, Any]],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = [scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(2)]
    for stream in running:
        next(stream)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler.batch.decoder, "decode", lambda tokens, longest: 1 / 0)
        for stream in running:
            with pytest.raises(ZeroDivisionError):
                list(stream)
    assert len(list(scheduler.submit(Request(config=GREEDY.replace(max_new_tokens=3), **prompts[0])))) == 3


def test_a_prompt_beyond_the_capacity_is_rejected(scheduler: Scheduler) -> None:
    with pytest.raises(GenerationError, match="299"):
        scheduler.submit(Request([5] * 300, GREEDY))


def test_closing_the_scheduler_fails_all_requests(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:  # noqa: F811
    scheduler = Scheduler(golden_model, eos_token_id=END, max_batch_size=1, capacity=300)
    running, waiting = (scheduler.submit(Request(config=LONG, **prompts[0])) for _ in range(2))
    next(running)
    scheduler.close()
    for stream in (running, waiting):
        with pytest.raises(GenerationError, match="shut down"):
            list(stream)
    with pytest.raises(GenerationError, match="questions"):
        scheduler.submit(Request(config=LONG, **prompts[0]))
    assert threading.active_count() < 50


def test_a_scheduler_is_shared_until_weights_are_replaced_and_closes_with_its_network(
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


def test_requests_that_run_out_of_memory_wait_for_running_ones(
    scheduler: Scheduler,
    prompts: list[dict[str, Any]],  # noqa: F811
    golden_model: VisualGLMModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, grow = scheduler.batch.decoder, scheduler.batch.decoder.grow

    def grow_up_to_a_limit(slots: int, capacity: int) -> None:
        if slots > 1 or capacity > 257:
            raise torch.OutOfMemoryError("tried to allocate too much")
        grow(slots, capacity)

    monkeypatch.setattr(decoder, "grow", grow_up_to_a_limit)
    short = GREEDY.replace(max_new_tokens=9)
    running = scheduler.submit(Request(config=short.replace(max_new_tokens=40), **prompts[0]))
    next(running)
    waiting = [scheduler.submit(Request(config=short, **prompts[n])) for n in (1, 2)]
    answers = [list(running), *(list(stream) for stream in waiting)]
    assert [len(outputs) for outputs in answers] == [39, 9, 9]
    assert answers[2] == list(generate(golden_model, Request(config=short, **prompts[2]), eos_token_id=END))
    for _ in range(2):  # does not fit even alone
        with pytest.raises(GenerationError, match="memory"):
            list(scheduler.submit(Request(config=LONG.replace(max_new_tokens=270), **prompts[0])))
    assert len(list(scheduler.submit(Request(config=short, **prompts[0])))) == 9
