"""Steps in a room have the logits of the network called layer by layer, however many places they see."""

from typing import Any

import pytest
import torch

from model.hf import ChatGLMConfig
from model.hf.generation_chatglm import STRIDE, Room, Traffic, with_free
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.helpers.hf_models import SPEC, build_golden, left_padded
from tests.helpers.in_rooms import GREEDY, assert_same_logits, prompt_of


@pytest.mark.parametrize("length", [2, 49, STRIDE - 4, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE - 3])
def test_lengths_on_both_sides_of_a_border(length: int, places_seen: list[int]) -> None:
    model = build_golden()
    assert_same_logits(model, prompt_of(length))
    steps = range(length + 1, length + GREEDY["max_new_tokens"])  # the first token comes with the prompt
    assert places_seen == [min(with_free(filled), with_free(length + 1)) for filled in steps]


def test_a_room_that_is_full_is_left_for_a_larger_one(places_seen: list[int]) -> None:
    model = build_golden()
    length, steps = STRIDE // 2 - 8, STRIDE // 2 + 12
    assert_same_logits(model, prompt_of(length), max_new_tokens=steps, min_new_tokens=steps)
    assert places_seen == [STRIDE] * (STRIDE - length) + [2 * STRIDE] * (length + steps - 1 - STRIDE)
    assert model.rooms.spare is not None
    assert model.rooms.spare.places == 2 * STRIDE


@pytest.mark.parametrize("changes", [{}, {"pre_seq_len": 5}])
def test_padded_rows_with_pictures(
    changes: dict[str, Any], places_seen: list[int], golden_pixels: torch.Tensor
) -> None:
    model = build_golden(**changes)
    batch = left_padded(golden_pixels)
    assert_same_logits(model, batch.pop("input_ids"), **batch)
    assert places_seen


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_few_bits(bits: int, places_seen: list[int]) -> None:
    model = build_golden()
    assert_same_logits(model.quantize(bits), torch.cat([prompt_of(30, seed) for seed in range(3)]))
    assert places_seen


class Replay:
    """Stands for a graph: computes again, into the same tensor."""

    def __init__(self, room: Room, model: HfModel, length: int) -> None:
        self.arguments = room, model, length
        self.logits = Room.compute(*self.arguments)

    def replay(self) -> None:
        self.logits.copy_(Room.compute(*self.arguments))


def test_what_was_recorded_serves_the_next_generation(places_seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_golden()
    recorded: list[int] = []

    def record(room: Room, model: HfModel, length: int) -> bool:
        replay = Replay(room, model, length)
        room.graphs[length] = replay, replay.logits  # type: ignore[assignment]
        recorded.append(length)
        return True

    monkeypatch.setattr(Room, "_record", record)
    for length in (STRIDE - 4, 40, STRIDE + 9, 2 * STRIDE + 9, 2 * STRIDE, 40):
        assert_same_logits(model, prompt_of(length, seed=length))
    assert recorded == [2 * STRIDE, 3 * STRIDE, STRIDE]


def test_a_graph_is_used_until_it_is_full_unless_it_reads_far_too_much() -> None:
    room = Room(torch.zeros(1, 2, 1, 4), 3, 6 * STRIDE, ())
    assert [room.seen(filled) for filled in (1, 200, 5 * STRIDE, 6 * STRIDE)] == [STRIDE, 2 * STRIDE, *[6 * STRIDE] * 2]
    room.graphs = {2 * STRIDE: Any, 4 * STRIDE: Any}
    for filled, expected in ((1, 2), (2 * STRIDE, 2), (2 * STRIDE + 1, 4), (4 * STRIDE, 4), (4 * STRIDE + 1, 5)):
        assert room.seen(filled) == expected * STRIDE
    room.graphs = {6 * STRIDE: Any}
    assert room.seen(30) == STRIDE


@pytest.mark.parametrize("changes", [{}, {"pre_seq_len": 5}, {"quantization_bit": 8}, {"quantization_bit": 4}])
def test_a_step_asks_the_device_nothing(changes: dict[str, Any]) -> None:
    """Tensors without data have no answer, and a recording cannot wait for one."""
    model = HfModel(ChatGLMConfig(**{**SPEC["hf_config"], **changes})).half().eval().to("meta")
    heads = model.config.num_attention_heads
    like = torch.zeros(2, heads, 1, model.config.hidden_size // heads, dtype=torch.float16, device="meta")
    room = Room(like, model.config.num_layers, STRIDE, ())
    with torch.no_grad():
        assert room.compute(model, STRIDE).shape == (2, 1, model.config.vocab_size)


def test_who_records_is_alone() -> None:
    traffic = Traffic()
    with traffic.passing():
        with traffic.stopped() as is_alone:
            assert is_alone
        with traffic.passing(), traffic.stopped() as is_alone:
            assert not is_alone
        with traffic.stopped() as is_alone:
            assert is_alone
