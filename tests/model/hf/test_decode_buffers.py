"""Decode steps in preallocated buffers give the network's own logits, for every attended length."""

from typing import Any

import pytest
import torch

from model.hf import ChatGLMConfig
from model.hf.generation_chatglm import CAPACITY_STEP, DecodeBuffers, DeviceUsage, with_headroom
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.helpers.hf_models import GREEDY, SPEC, assert_same_logits, build_golden, left_padded_batch, prompt_of


@pytest.mark.parametrize(
    "length", [2, 49, CAPACITY_STEP - 4, CAPACITY_STEP - 1, CAPACITY_STEP, CAPACITY_STEP + 1, 2 * CAPACITY_STEP - 3]
)
def test_lengths_around_capacity_steps(length: int, attended_lengths: list[int]) -> None:
    model = build_golden()
    assert_same_logits(model, prompt_of(length))
    steps = range(length + 1, length + GREEDY["max_new_tokens"])  # prefill gives the first token
    assert attended_lengths == [min(with_headroom(filled), with_headroom(length + 1)) for filled in steps]


def test_full_buffers_are_replaced_by_larger_ones(attended_lengths: list[int]) -> None:
    model = build_golden()
    length, steps = CAPACITY_STEP // 2 - 8, CAPACITY_STEP // 2 + 12
    assert_same_logits(model, prompt_of(length), max_new_tokens=steps, min_new_tokens=steps)
    assert attended_lengths == [CAPACITY_STEP] * (CAPACITY_STEP - length) + [2 * CAPACITY_STEP] * (
        length + steps - 1 - CAPACITY_STEP
    )
    assert model.graph_cache.idle is not None
    assert model.graph_cache.idle.capacity == 2 * CAPACITY_STEP


@pytest.mark.parametrize("changes", [{}, {"pre_seq_len": 5}])
def test_padded_batch_with_images(
    changes: dict[str, Any], attended_lengths: list[int], golden_pixels: torch.Tensor
) -> None:
    model = build_golden(**changes)
    batch = left_padded_batch(golden_pixels)
    assert_same_logits(model, batch.pop("input_ids"), **batch)
    assert attended_lengths


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights(bits: int, attended_lengths: list[int]) -> None:
    model = build_golden()
    assert_same_logits(model.quantize(bits), torch.cat([prompt_of(30, seed) for seed in range(3)]))
    assert attended_lengths


class Replay:
    """Replaces a CUDA graph on the CPU: a replay computes again into the same tensor."""

    def __init__(self, buffers: DecodeBuffers, model: HfModel, length: int) -> None:
        self.arguments = buffers, model, length
        self.logits = DecodeBuffers.compute(*self.arguments)

    def replay(self) -> None:
        self.logits.copy_(DecodeBuffers.compute(*self.arguments))


def test_captured_graphs_serve_the_next_generation(
    attended_lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_golden()
    recorded: list[int] = []

    def record(buffers: DecodeBuffers, model: HfModel, length: int) -> bool:
        replay = Replay(buffers, model, length)
        buffers.graphs[length] = replay, replay.logits  # type: ignore[assignment]
        recorded.append(length)
        return True

    monkeypatch.setattr(DecodeBuffers, "_capture", record)
    for length in (CAPACITY_STEP - 4, 40, CAPACITY_STEP + 9, 2 * CAPACITY_STEP + 9, 2 * CAPACITY_STEP, 40):
        assert_same_logits(model, prompt_of(length, seed=length))
    assert recorded == [2 * CAPACITY_STEP, 3 * CAPACITY_STEP, CAPACITY_STEP]


def test_a_graph_is_used_until_it_is_full_unless_it_is_over_twice_too_long() -> None:
    buffers = DecodeBuffers(torch.zeros(1, 2, 1, 4), 3, 6 * CAPACITY_STEP, ())
    assert [buffers.attended_length(filled) for filled in (1, 200, 5 * CAPACITY_STEP, 6 * CAPACITY_STEP)] == [
        CAPACITY_STEP,
        2 * CAPACITY_STEP,
        *[6 * CAPACITY_STEP] * 2,
    ]
    buffers.graphs = {2 * CAPACITY_STEP: Any, 4 * CAPACITY_STEP: Any}
    for filled, expected in (
        (1, 2),
        (2 * CAPACITY_STEP, 2),
        (2 * CAPACITY_STEP + 1, 4),
        (4 * CAPACITY_STEP, 4),
        (4 * CAPACITY_STEP + 1, 5),
    ):
        assert buffers.attended_length(filled) == expected * CAPACITY_STEP
    buffers.graphs = {6 * CAPACITY_STEP: Any}
    assert buffers.attended_length(30) == CAPACITY_STEP


@pytest.mark.parametrize("changes", [{}, {"pre_seq_len": 5}, {"quantization_bit": 8}, {"quantization_bit": 4}])
def test_a_decode_step_does_not_synchronize(changes: dict[str, Any]) -> None:
    """Meta tensors have no data to wait for, as in a graph capture, which must not synchronize."""
    model = HfModel(ChatGLMConfig(**{**SPEC["hf_config"], **changes})).half().eval().to("meta")
    heads = model.config.num_attention_heads
    like = torch.zeros(2, heads, 1, model.config.hidden_size // heads, dtype=torch.float16, device="meta")
    buffers = DecodeBuffers(like, model.config.num_layers, CAPACITY_STEP, ())
    with torch.no_grad():
        assert buffers.compute(model, CAPACITY_STEP).shape == (2, 1, model.config.vocab_size)


def test_capture_is_exclusive() -> None:
    usage = DeviceUsage()
    with usage.active():
        with usage.exclusive() as is_exclusive:
            assert is_exclusive
        with usage.active(), usage.exclusive() as is_exclusive:
            assert not is_exclusive
        with usage.exclusive() as is_exclusive:
            assert is_exclusive
