"""Continuous batching generates the same outputs as separate generation."""

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
# Few candidates: among many, some probabilities are so close that the order of summation decides.
WILD = GenerationConfig(temperature=2.0, top_k=9, top_p=1.0, repetition_penalty=1.3)


@pytest.fixture(scope="module")
def prompts(golden_spec: Any, golden_model: VisualGLMModel, golden_pixels: torch.Tensor) -> list[dict[str, Any]]:
    """Four prompts of different lengths, with and without an image, as arguments of Request."""
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
    """Return random requests: greedy and sampled, short and long, with forbidden ids and minimum lengths."""
    rng = random.Random(seed)
    requests = []
    for index in range(count):
        config = rng.choice([GREEDY, WILD.replace(seed=index), WILD.replace(seed=7, top_k=5, top_p=0.8)])
        prompt = rng.choice(prompts)
        config = config.replace(max_new_tokens=rng.randint(1, 14))
        if rng.random() < 0.3:
            config = config.replace(min_length=len(prompt["token_ids"]) + 3)
        requests.append(Request(config=config, forbidden=[(0, rng.randint(1, 400))], **prompt))
    return requests


def generate_separately(model: VisualGLMModel, requests: list[Request]) -> list[list[TokenOutput]]:
    return [list(generate(model, request, eos_token_id=END)) for request in requests]


def generate_batched(model: VisualGLMModel, requests: list[Request], rows: int) -> list[list[Any]]:
    outputs_of: dict[Request, list[Any]] = {request: [] for request in requests}
    for request, output in generate_all(model, requests, eos_token_id=END, max_batch_size=rows):
        outputs_of[request].append(output)
    return list(outputs_of.values())


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_batched_outputs_equal_separate_outputs(
    rows: int, golden_model: VisualGLMModel, prompts: list[dict[str, Any]]
) -> None:
    expected = generate_separately(golden_model, draw_requests(prompts, 12, seed=rows))
    assert generate_batched(golden_model, draw_requests(prompts, 12, seed=rows), rows) == expected


def test_random_arrivals_and_cancellations(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    expected = generate_separately(golden_model, draw_requests(prompts, 25, seed=5))
    waiting = draw_requests(prompts, 25, seed=5)
    order = {request: number for number, request in enumerate(waiting)}
    outputs_of: dict[Request, list[Any]] = {request: [] for request in waiting}
    batch, rng = Batch(golden_model, 4, 200, END), random.Random(1)
    cancelled = set()
    while waiting or batch.requests:
        outputs = batch.add(waiting.pop(0)) if waiting and batch.free_slots and rng.random() < 0.5 else []
        if batch.requests and not outputs:
            outputs = batch.step()
        for request, output in outputs:
            outputs_of[request].append(output)
        if batch.requests and rng.random() < 0.1:
            cancelled_request = rng.choice(batch.requests)
            batch.cancel(cancelled_request)
            cancelled.add(cancelled_request)
    assert cancelled and batch.free_slots == 4
    for request, got in outputs_of.items():
        full = expected[order[request]]
        assert got == (full[: len(got)] if request in cancelled else full)


def test_nan_logits_end_only_their_own_sequence(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    requests = [Request(config=GREEDY.replace(max_new_tokens=6), **prompt) for prompt in prompts]
    nan_request = Request(
        config=GREEDY, **{**prompts[0], "images": torch.full_like(prompts[0]["images"], float("nan"))}
    )
    first, (error,), *rest = generate_batched(golden_model, [requests[0], nan_request, *requests[1:]], 5)
    assert isinstance(error, GenerationError)
    assert [first, *rest] == generate_separately(golden_model, requests)


@pytest.mark.parametrize("index", [0, 1])
def test_nan_does_not_contaminate_the_next_sequence_in_the_slot(
    index: int, golden_model: VisualGLMModel, prompts: list[dict[str, Any]]
) -> None:
    long, short = prompts[2], prompts[3]
    nan_request = Request(config=GREEDY, **{**long, "images": torch.full_like(long["images"], float("nan"))})
    healthy = Request(config=GREEDY.replace(max_new_tokens=12), **long)
    after = Request(config=GREEDY.replace(max_new_tokens=4), **short)
    order = [healthy, nan_request, after] if index else [nan_request, healthy, after]
    outputs_of = dict(zip(order, generate_batched(golden_model, order, 2), strict=True))
    assert [outputs_of[healthy], outputs_of[after]] == generate_separately(golden_model, [healthy, after])


def test_a_prompt_beyond_the_capacity_ends_at_once(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    batch = Batch(golden_model, 2, 10, END)
    (output,) = batch.add(Request(config=GREEDY, **prompts[0]))
    assert output[1] == TokenOutput(None, "length")
    assert batch.free_slots == 2


def test_no_step_is_launched_ahead_at_the_length_limit(
    golden_model: VisualGLMModel, prompts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the next step is launched before the last one's tokens are inspected."""
    requests = [Request(config=GREEDY.replace(max_new_tokens=5), forbidden=[(END, END + 1)], **p) for p in prompts[:2]]
    batch, launches = Batch(golden_model, 2, 200, END), 0

    def count(key: Any, step: Callable[[], None], snapshot: Any) -> None:
        nonlocal launches
        launches += 1
        step()

    monkeypatch.setattr(batch.decoder, "is_graph_capturable", True, raising=False)
    monkeypatch.setattr(batch.graphs, "run", count)
    outputs = batch.add(*requests)
    while batch.sequences:
        outputs += batch.step()
    assert launches == 4, "the first token comes from the prefill"
    assert [sum(request is one for request, _ in outputs) for one in requests] == [5, 5]


def test_a_foreign_mixin_changes_batched_and_separate_outputs_alike(
    golden_spec: Any, golden_pixels: torch.Tensor, prompts: list[dict[str, Any]]
) -> None:
    model = build_model(golden_spec)
    before = generate_batched(model, draw_requests(prompts, 6, seed=3), 4)
    model.add_mixin("sharp", SharpAttention())
    after = generate_batched(model, draw_requests(prompts, 6, seed=3), 4)
    assert after == generate_separately(model, draw_requests(prompts, 6, seed=3))
    assert after != before


def test_chunked_prefill_between_decode_steps(golden_model: VisualGLMModel, prompts: list[dict[str, Any]]) -> None:
    """Running sequences continue, finish or are cancelled; no tokens change; a prompt cancelled in prefill leaves."""
    running = [Request(config=GREEDY.replace(max_new_tokens=n), **prompts[n % 4]) for n in (2, 30, 4, 30)]
    added = [Request(config=GREEDY.replace(max_new_tokens=9), **prompts[n]) for n in (2, 0, 1)]
    expected = dict(zip((*running, *added), generate_separately(golden_model, [*running, *added]), strict=True))
    outputs_of: dict[Request, list[Any]] = {request: [] for request in expected}
    batch = Batch(golden_model, 8, 200, END)
    for request, output in batch.add(*running):
        outputs_of[request].append(output)
    batch.start_prefill(*added)
    prefill_steps = 0
    while batch.sequences or batch.prefilling:
        outputs = batch.continue_prefill(1) if batch.prefilling else []
        prefill_steps += bool(batch.prefilling)
        if prefill_steps == 1 and batch.prefilling:
            batch.cancel(added[1])
            batch.cancel(running[3])
        for request, output in outputs + (batch.step() if batch.sequences else []):
            outputs_of[request].append(output)
    assert prefill_steps == len(golden_model.transformer.layers)
    for request in (*running[:3], added[0], added[2]):
        assert outputs_of[request] == expected[request]
    assert len(outputs_of[added[1]]) <= 1 and len(outputs_of[running[3]]) < 5
    assert batch.free_slots == 8


def test_batch_size_and_capacity_grow_during_decoding(
    golden_model: VisualGLMModel, prompts: list[dict[str, Any]]
) -> None:
    small = [Request(config=GREEDY.replace(max_new_tokens=40), **prompts[3])]
    large = [Request(config=WILD.replace(seed=n, max_new_tokens=160), **prompts[2]) for n in range(4)]
    expected = dict(zip((*small, *large), generate_separately(golden_model, [*small, *large]), strict=True))
    batch = Batch(golden_model, 8, 2000, END)
    outputs_of: dict[Request, list[Any]] = {request: [] for request in expected}
    outputs = batch.add(*small)
    for _ in range(3):
        outputs += batch.step()
    outputs += batch.add(*large)
    while batch.sequences:
        outputs += batch.step()
    for request, output in outputs:
        outputs_of[request].append(output)
    assert outputs_of == expected
