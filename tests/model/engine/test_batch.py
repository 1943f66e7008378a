"""Answers written side by side are those that each prompt would get alone."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.engine import Batch, GenerationConfig, Request, TokenOutput, generate, generate_all
from model.errors import GenerationError
from model.visualglm import VisualGLMModel
from tests.conftest import build_model
from tests.model.engine.test_decoder import CASES, END, SharpAttention, embeddings

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)
# Few candidates: among very many, some are so close that the order of summing decides.
WILD = GenerationConfig(temperature=2.0, top_k=9, top_p=1.0, repetition_penalty=1.3)


@pytest.fixture(scope="module")
def prompts(golden_spec: Any, golden_model: VisualGLMModel, golden_pixels: torch.Tensor) -> list[dict[str, Any]]:
    """Four prompts of different length, with and without a picture, as arguments of Request."""
    cases = [golden_spec["cases"][name] for name in CASES]
    return [
        {
            "token_ids": case["input_ids"],
            "images": embeddings(golden_model, case, golden_pixels),
            "image_start": case["image_start"] or 0,
        }
        for case in cases
    ]


def draw_requests(prompts: list[dict[str, Any]], count: int, seed: int) -> list[Request]:
    """Requests of all kinds: greedy and sampled, short and long, with bans and least lengths."""
    rng = random.Random(seed)
    requests = []
    for number in range(count):
        config = rng.choice([GREEDY, WILD.replace(seed=number), WILD.replace(seed=7, top_k=5, top_p=0.8)])
        prompt = rng.choice(prompts)
        config = config.replace(max_new_tokens=rng.randint(1, 14))
        if rng.random() < 0.3:
            config = config.replace(min_length=len(prompt["token_ids"]) + 3)
        requests.append(Request(config=config, forbidden=[(0, rng.randint(1, 400))], **prompt))
    return requests


def alone(model: VisualGLMModel, requests: list[Request]) -> list[list[TokenOutput]]:
    return [list(generate(model, request, eos_token_id=END)) for request in requests]


def together(model: VisualGLMModel, requests: list[Request], rows: int) -> list[list[Any]]:
    steps: dict[Request, list[Any]] = {request: [] for request in requests}
    for request, step in generate_all(model, requests, eos_token_id=END, max_batch_size=rows):
        steps[request].append(step)
    return list(steps.values())


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_company_changes_no_answer(rows: int, golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    expected = alone(golden_model, draw_requests(prompts, 12, seed=rows))
    assert together(golden_model, draw_requests(prompts, 12, seed=rows), rows) == expected


def test_random_arrivals_and_cancellations(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    expected = alone(golden_model, draw_requests(prompts, 25, seed=5))
    waiting = draw_requests(prompts, 25, seed=5)
    order = {request: number for number, request in enumerate(waiting)}
    steps: dict[Request, list[Any]] = {request: [] for request in waiting}
    batch, rng = Batch(golden_model, 4, 200, END), random.Random(1)
    cancelled = set()
    while waiting or batch.requests:
        events = batch.add(waiting.pop(0)) if waiting and batch.free_slots and rng.random() < 0.5 else []
        if batch.requests and not events:
            events = batch.step()
        for request, step in events:
            steps[request].append(step)
        if batch.requests and rng.random() < 0.1:
            gone = rng.choice(batch.requests)
            batch.cancel(gone)
            cancelled.add(gone)
    assert cancelled and batch.free_slots == 4
    for request, got in steps.items():
        full = expected[order[request]]
        assert got == (full[: len(got)] if request in cancelled else full)


def test_an_error_ends_its_own_answer_alone(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    requests = [Request(config=GREEDY.replace(max_new_tokens=6), **prompt) for prompt in prompts]
    broken = Request(config=GREEDY, **{**prompts[0], "images": torch.full_like(prompts[0]["images"], float("nan"))})
    first, (error,), *rest = together(golden_model, [requests[0], broken, *requests[1:]], 5)
    assert isinstance(error, GenerationError)
    assert [first, *rest] == alone(golden_model, requests)


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_number_does_not_reach_the_next_in_its_place(
    place: int, golden_model: VisualGLMModel, prompts: list[dict[str, Any]]
) -> None:
    long, short = prompts[2], prompts[3]
    broken = Request(config=GREEDY, **{**long, "images": torch.full_like(long["images"], float("nan"))})
    keeping = Request(config=GREEDY.replace(max_new_tokens=12), **long)
    after = Request(config=GREEDY.replace(max_new_tokens=4), **short)
    order = [keeping, broken, after] if place else [broken, keeping, after]
    steps = dict(zip(order, together(golden_model, order, 2), strict=True))
    assert [steps[keeping], steps[after]] == alone(golden_model, [keeping, after])


def test_a_prompt_without_room_ends_at_once(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    batch = Batch(golden_model, 2, 10, END)
    (event,) = batch.add(Request(config=GREEDY, **prompts[0]))
    assert event[1] == TokenOutput(None, "length")
    assert batch.free_slots == 2


def test_no_step_is_started_that_nobody_could_want(
    golden_model: VisualGLMModel, prompts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next step is started before the last one's tokens are looked at, as on a GPU."""
    requests = [Request(config=GREEDY.replace(max_new_tokens=5), forbidden=[(END, END + 1)], **p) for p in prompts[:2]]
    batch, steps = Batch(golden_model, 2, 200, END), 0

    def count(key: Any, step: Callable[[], None], snapshot: Any) -> None:
        nonlocal steps
        steps += 1
        step()

    monkeypatch.setattr(batch.decoder, "is_graph_capturable", True, raising=False)
    monkeypatch.setattr(batch.graphs, "run", count)
    events = batch.add(*requests)
    while batch.sequences:
        events += batch.step()
    assert steps == 4, "the first token is the prompt's"
    assert [sum(of is one for of, _ in events) for one in requests] == [5, 5]


def test_a_users_mixin_changes_a_batch_as_it_does_each_answer(
    golden_spec: Any, golden_pixels: torch.Tensor, prompts: list[dict[str, Any]]
) -> None:
    model = build_model(golden_spec)
    before = together(model, draw_requests(prompts, 6, seed=3), 4)
    model.add_mixin("sharp", SharpAttention())
    after = together(model, draw_requests(prompts, 6, seed=3), 4)
    assert after == alone(model, draw_requests(prompts, 6, seed=3))
    assert after != before


def test_a_prompt_that_is_read_between_steps(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    """Its neighbours go on, some end, one is cancelled, and nobody's tokens change; the cancelled prompt leaves."""
    running = [Request(config=GREEDY.replace(max_new_tokens=n), **prompts[n % 4]) for n in (2, 30, 4, 30)]
    late = [Request(config=GREEDY.replace(max_new_tokens=9), **prompts[n]) for n in (2, 0, 1)]
    expected = dict(zip((*running, *late), alone(golden_model, [*running, *late]), strict=True))
    steps: dict[Request, list[Any]] = {request: [] for request in expected}
    batch = Batch(golden_model, 8, 200, END)
    for request, step in batch.add(*running):
        steps[request].append(step)
    batch.start_prefill(*late)
    reads = 0
    while batch.sequences or batch.prefilling:
        events = batch.continue_prefill(1) if batch.prefilling else []
        reads += bool(batch.prefilling)
        if reads == 1 and batch.prefilling:
            batch.cancel(late[1])
            batch.cancel(running[3])
        for request, step in events + (batch.step() if batch.sequences else []):
            steps[request].append(step)
    assert reads == len(golden_model.transformer.layers)
    for request in (*running[:3], late[0], late[2]):
        assert steps[request] == expected[request]
    assert len(steps[late[1]]) <= 1 and len(steps[running[3]]) < 5
    assert batch.free_slots == 8


def test_rows_and_room_grow_while_answers_are_written(
    golden_model: VisualGLMModel, prompts: list[dict[str, Any]]
) -> None:
    small = [Request(config=GREEDY.replace(max_new_tokens=40), **prompts[3])]
    large = [Request(config=WILD.replace(seed=n, max_new_tokens=300), **prompts[2]) for n in range(4)]
    expected = dict(zip((*small, *large), alone(golden_model, [*small, *large]), strict=True))
    batch = Batch(golden_model, 8, 2000, END)
    steps: dict[Request, list[Any]] = {request: [] for request in expected}
    events = batch.add(*small)
    for _ in range(3):
        events += batch.step()
    events += batch.add(*large)
    while batch.sequences:
        events += batch.step()
    for request, step in events:
        steps[request].append(step)
    assert steps == expected
