"""Single tokens decoded in a room, as graphs do it on a GPU, are those of the network called layer by layer."""

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from model.hf import graph_chatglm
from model.hf.graph_chatglm import Rooms, weights_of
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from model.hf.room_chatglm import STRIDE, Room, Traffic, with_free
from tests.hf_models import build_golden, golden_model, left_padded, picture_of, prompt_ids, tiny_model, tiny_tokenizer

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let models decode in rooms on the CPU; return how many places each step sees."""
    seen: list[int] = []
    compute = Room.compute

    def noted(self: Room, model: Any, length: int) -> torch.Tensor:
        seen.append(length)
        return compute(self, model, length)

    monkeypatch.setattr(graph_chatglm, "has_graphs", lambda device: True)
    monkeypatch.setattr(Room, "compute", noted)
    return seen


@pytest.fixture
def model(lengths: list[int]) -> Iterator[HfModel]:
    """A model of the test's own, which decodes in rooms."""
    yield build_golden()


def prompt_of(length: int, seed: int = 0) -> torch.Tensor:
    """Return random ids [1, length] that end with [gMASK] <sop>."""
    marks = golden_model().config
    ids = torch.randint(20, 60, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, -2:] = torch.tensor([marks.gmask_token_id, marks.bos_token_id])
    return ids


def both_ways(model: HfModel, ids: torch.Tensor, **settings: Any) -> tuple[Any, Any]:
    """Generate in a room and layer by layer."""
    found = []
    for model.rooms.records in (True, False):
        torch.manual_seed(0)
        found.append(model.generate(ids, **{**GREEDY, **settings}))
    model.rooms.records = True
    return found[0], found[1]


def assert_same_logits(model: HfModel, ids: torch.Tensor, **settings: Any) -> None:
    """Compare the logits and tokens of all steps."""
    ours, expected = both_ways(model, ids, return_dict_in_generate=True, output_logits=True, **settings)
    assert torch.equal(ours.sequences, expected.sequences)
    for one, other in zip(ours.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [2, 49, STRIDE - 4, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE - 3])
def test_lengths_on_both_sides_of_a_border(length: int, model: HfModel, lengths: list[int]) -> None:
    assert_same_logits(model, prompt_of(length))
    steps = range(length + 1, length + GREEDY["max_new_tokens"])  # the first token comes with the prompt
    assert lengths == [min(with_free(filled), with_free(length + 1)) for filled in steps]


def test_a_room_that_is_full_is_left_for_a_larger_one(model: HfModel, lengths: list[int]) -> None:
    length, steps = STRIDE // 2 - 8, STRIDE // 2 + 12
    assert_same_logits(model, prompt_of(length), max_new_tokens=steps, min_new_tokens=steps)
    assert lengths == [STRIDE] * (STRIDE - length) + [2 * STRIDE] * (length + steps - 1 - STRIDE)
    assert model.rooms.spare is not None
    assert model.rooms.spare.places == 2 * STRIDE


@pytest.mark.parametrize("changes", [{}, {"pre_seq_len": 5}])
def test_padded_rows_with_pictures(changes: dict[str, Any], lengths: list[int], golden_pixels: torch.Tensor) -> None:
    model = build_golden(**changes)
    batch = left_padded(golden_pixels)
    assert_same_logits(model, batch.pop("input_ids"), **batch)
    assert lengths


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_few_bits(bits: int, model: HfModel, lengths: list[int]) -> None:
    assert_same_logits(model.quantize(bits), torch.cat([prompt_of(30, seed) for seed in range(3)]))
    assert lengths


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"repetition_penalty": 1.3, "suppress_tokens": [30]},
    ],
)
def test_other_ways_to_generate(settings: dict[str, Any], model: HfModel, lengths: list[int]) -> None:
    for ids in (prompt_of(30), torch.cat([prompt_of(STRIDE - 3, seed) for seed in range(2)])):
        ours, expected = both_ways(model, ids, **settings)
        assert torch.equal(ours, expected)
    assert lengths


def test_guessed_tokens_and_single_ones_take_turns(model: HfModel, lengths: list[int]) -> None:
    settings = {"max_new_tokens": 30, "min_new_tokens": 30}
    ours, expected = both_ways(model, prompt_of(40), prompt_lookup_num_tokens=2, **settings)
    assert torch.equal(ours, expected)
    assert torch.equal(ours, both_ways(model, prompt_of(40), **settings)[1])


def test_streamed_answers(lengths: list[int]) -> None:
    model = copy.deepcopy(tiny_model())
    greedy = {"do_sample": False, "min_length": 0, "repetition_penalty": 1}
    answer = tiny_model().chat(tiny_tokenizer(), None, "你好", **greedy)
    lengths.clear()
    assert model.chat(tiny_tokenizer(), None, "你好", **greedy) == answer
    assert [*model.stream_chat(tiny_tokenizer(), None, "你好", **greedy)][-1] == answer
    assert lengths
    next(stream := model.stream_chat(tiny_tokenizer(), None, "你好", **greedy))
    stream.close()
    assert model.rooms.spare is not None


def test_a_room_serves_again_and_keeps_nothing(model: HfModel) -> None:
    model.generate(prompt_of(2 * STRIDE), **GREEDY)
    room = model.rooms.spare
    assert room is not None
    room.states.fill_(torch.nan)
    room.visible.fill_(False)
    assert_same_logits(model, prompt_of(10))
    assert model.rooms.spare is room


def test_a_cache_that_is_handed_out_is_the_callers_own(model: HfModel) -> None:
    asked = {**GREEDY, "return_dict_in_generate": True}
    cache = model.generate(prompt_of(20), **asked).past_key_values
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    model.generate(prompt_of(30), **asked)
    expected = golden_model().generate(prompt_of(20), **asked, past_key_values=None).past_key_values
    for layer, kept, other in zip(cache.layers, before, expected.layers, strict=True):
        assert torch.equal(layer.keys, kept[0])
        assert torch.equal(layer.values, kept[1])
        torch.testing.assert_close(layer.keys, other.keys)
    with torch.no_grad():  # and it can be gone on from
        place = torch.tensor([[[18], [9]]])
        model(torch.tensor([[30]]), past_key_values=cache, position_ids=place)
    assert cache.get_seq_length() == before[0][0].shape[2] + 1


def test_a_copy_of_the_cache_in_the_middle_goes_its_own_way(model: HfModel) -> None:
    copies = []

    def keep(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        copies.extend([copy.deepcopy(steps[0])] if steps else [])
        return scores

    steps: list[Any] = []
    model.register_forward_pre_hook(
        lambda module, args, given: steps.append(given["past_key_values"]), with_kwargs=True
    )
    model.generate(prompt_of(20), **GREEDY, logits_processor=[keep])
    assert [cache.get_seq_length() for cache in copies] == [*range(20, 28)]
    assert all(cache.steps is None for cache in copies)


def test_changed_weights_are_another_model(model: HfModel) -> None:
    expected = weights_of(model)
    assert weights_of(model) == expected
    model.generate(prompt_of(20), **GREEDY)
    model.double()
    assert model.rooms.spare is None
    assert_same_logits(model, prompt_of(20))
    room = model.rooms.spare
    model.quantize(8)
    assert_same_logits(model, prompt_of(20))
    assert model.rooms.spare is not room


def test_what_a_graph_would_not_repeat_is_left_alone(model: HfModel, lengths: list[int]) -> None:
    layer = model.transformer.layers[1]
    hook = layer.mlp.register_forward_hook(lambda *args: None)
    assert weights_of(model) is None
    model.generate(prompt_of(20), **GREEDY)
    hook.remove()
    model.generate(prompt_of(20), **GREEDY, output_hidden_states=True, return_dict_in_generate=True)
    model.generate(prompt_of(20), **GREEDY, use_cache=False)
    model.generate(prompt_of(20), **GREEDY, cache_implementation="static")
    assert lengths == []
    assert weights_of(model) is not None
    assert weights_of(model.train()) is None
    model.eval()
    layer.mlp.dense_h_to_4h = torch.nn.Sequential(layer.mlp.dense_h_to_4h)
    assert weights_of(model) is None


def test_two_at_once_have_rooms_of_their_own(model: HfModel) -> None:
    prompts = [torch.cat([prompt_of(length, seed) for seed in range(rows)]) for length, rows in ((20, 1), (40, 2))]
    expected = [golden_model().generate(ids, **GREEDY) for ids in prompts]
    found: list[list[torch.Tensor]] = [[], []]

    def ask(number: int) -> None:
        found[number].extend(model.generate(prompts[number], **GREEDY) for _ in range(4))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answers, answer in zip(found, expected, strict=True):
        assert len(answers) == 4
        assert all(torch.equal(one, answer) for one in answers)


def test_in_inference_mode_and_out_of_it(model: HfModel) -> None:
    expected = golden_model().generate(prompt_of(20), **GREEDY)
    with torch.inference_mode():
        inside = model.generate(prompt_of(20), **GREEDY)
    assert torch.equal(inside, expected)
    assert torch.equal(model.generate(prompt_of(20), **GREEDY), expected)


def test_copies_of_a_model_have_no_room(model: HfModel) -> None:
    model.generate(prompt_of(20), **GREEDY)
    assert model.rooms.spare is not None
    assert copy.deepcopy(model).rooms.spare is None
    assert pickle.loads(pickle.dumps(model.rooms)).spare is None


def test_a_failed_generation_gives_its_room_back(model: HfModel) -> None:
    def fail(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 23:
            raise KeyError("stopped")
        return scores

    with pytest.raises(KeyError, match="stopped"):
        model.generate(prompt_of(20), **GREEDY, logits_processor=[fail])
    assert model.rooms.spare is not None


def test_the_largest_room_is_kept() -> None:
    rooms, like = Rooms(), torch.zeros(1, 2, 1, 4)
    small, large = rooms.take(like, 3, 20, ()), rooms.take(like, 3, 2 * STRIDE, ())
    assert (small.places, large.places) == (STRIDE, 3 * STRIDE)
    for room in (small, large, small):
        rooms.give_back(room)
    assert rooms.spare is large
    assert rooms.take(like.expand(2, -1, -1, -1), 3, 20, ()).rows == 2
    assert rooms.spare is None


def test_a_graph_is_used_until_it_is_full_unless_it_reads_far_too_much() -> None:
    room = Room(torch.zeros(1, 2, 1, 4), 3, 6 * STRIDE, ())
    assert [room.seen(filled) for filled in (1, 200, 5 * STRIDE, 6 * STRIDE)] == [STRIDE, 2 * STRIDE, *[6 * STRIDE] * 2]
    room.graphs = {2 * STRIDE: Any, 4 * STRIDE: Any}
    for filled, expected in ((1, 2), (2 * STRIDE, 2), (2 * STRIDE + 1, 4), (4 * STRIDE, 4), (4 * STRIDE + 1, 5)):
        assert room.seen(filled) == expected * STRIDE
    room.graphs = {6 * STRIDE: Any}
    assert room.seen(30) == STRIDE


def test_who_records_is_alone() -> None:
    traffic = Traffic()
    with traffic.passing():
        with traffic.stopped() as is_alone:
            assert is_alone
        with traffic.passing(), traffic.stopped() as is_alone:
            assert not is_alone
        with traffic.stopped() as is_alone:
            assert is_alone


def test_positions_go_on_as_the_whole_sequence_has_them(golden_pixels: torch.Tensor) -> None:
    model, masks = build_golden(), []
    model.transformer.register_forward_hook(lambda module, given, out: masks.append(given[1]))
    batch = left_padded(golden_pixels)
    ids = model.generate(**batch, **GREEDY)
    later = torch.cat(masks[1:], dim=-1)
    masks.clear()
    batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 7), value=1)
    with torch.no_grad():
        model(**{**batch, "input_ids": ids[:, :-1]})
    assert torch.equal(later, masks[0][..., -7:])
    text = prompt_ids("zh_text")
    assert model.generate(text, **picture_of("zh_text", golden_pixels), **GREEDY).shape[1] == text.shape[1] + 8
