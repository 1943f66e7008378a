"""Sequences that join, leave and move in a batch with the GPU's decoder get the tokens of the eager decoder."""

import os
import random

import pytest
import torch

from model import load_sat
from model.engine import Batch, GenerationConfig, Request, generate
from model.engine.layers import Layers
from model.engine.pending_step import PendingStep, copy_results
from model.engine.sequence import RunningSequence
from tests.helpers.direct_runs import DirectRuns

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter (TRITON_INTERPRET=1)"
)
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)
SLOTS, CAPACITY, COUNT = 3, 32, 5


def draw_requests(count: int, seed: int) -> list[Request]:
    """Return greedy requests with prompts and answers of random lengths."""
    rng = random.Random(seed)
    return [
        Request(
            [*rng.choices(range(100, 900), k=rng.choice((2, 5, 9))), 99],
            GREEDY.replace(max_new_tokens=rng.randint(1, 4)),
        )
        for _ in range(count)
    ]


def copy_on_the_cpu(sequences: list[RunningSequence], *results: torch.Tensor) -> PendingStep:
    """Copy the results of a step, as from a GPU: the step that is launched ahead overwrites them."""
    return copy_results(sequences, *(result.clone() for result in results))


@torch.inference_mode()
def test_tokens_equal_the_eager_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.engine import graph_decoder

    # Only attention by the interpreter, which is slow; other kernels have tests of their own.
    for module in ("dispatch", "linear", "norm"):
        monkeypatch.setattr(f"model.kernels.{module}.has_triton", lambda device: False)
    monkeypatch.setattr("model.engine.sampling.has_triton", lambda device: False)
    model = load_sat("visualglm-tiny", device="cpu", dtype="float32")
    network, eos_token_id = model.network, model.tokenizer.eos_token_id
    expected = [
        [output.token_id for output in generate(network, request, eos_token_id=eos_token_id)]
        for request in draw_requests(COUNT, seed=2)
    ]
    monkeypatch.setattr(graph_decoder, "CudaGraphs", DirectRuns)
    monkeypatch.setattr(graph_decoder, "PREFILL_LENGTH_BUCKETS", (15,))
    monkeypatch.setattr("model.engine.batch.copy_results", copy_on_the_cpu)
    batch, waiting = Batch(network, SLOTS, CAPACITY, eos_token_id), draw_requests(COUNT, seed=2)
    batch.decoder, batch.graphs = graph_decoder.CudaGraphDecoder(Layers(network)), DirectRuns()  # type: ignore[assignment]
    tokens: dict[Request, list[int | None]] = {request: [] for request in waiting}
    cancelled, rng = max(waiting, key=lambda one: one.config.max_new_tokens), random.Random(0)
    while waiting or batch.requests:
        joining = rng.randint(0, min(len(waiting), batch.free_slots, 2))
        outputs = batch.add(*(waiting.pop(0) for _ in range(joining))) if joining else batch.step()
        for request, output in outputs:
            tokens[request].append(output.token_id)
        if len(tokens[cancelled]) == 2:
            batch.cancel(cancelled)
        reserved = batch.decoder.cache.occupied(range(batch.decoder.cache.num_slots))
        assert len(reserved) == len(batch.requests)
    for request, answer in zip(tokens, expected, strict=True):
        assert tokens[request] == (answer[:2] if request is cancelled else answer)
