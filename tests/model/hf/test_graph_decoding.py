"""`generate` decodes with graphs if possible, and gives the same tokens for all of its options."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from model.hf.generation_chatglm import CAPACITY_STEP, GraphCache, weights_fingerprint
from tests.helpers.hf_models import (
    GREEDY,
    assert_same_logits,
    build_golden,
    generate_with_and_without_graphs,
    golden_model,
    image_arguments,
    left_padded_batch,
    prompt_ids,
    prompt_of,
    tiny_model,
    tiny_tokenizer,
)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"repetition_penalty": 1.3, "suppress_tokens": [30]},
    ],
)
def test_other_ways_to_generate(settings: dict[str, Any], attended_lengths: list[int]) -> None:
    model = build_golden()
    for ids in (prompt_of(30), torch.cat([prompt_of(CAPACITY_STEP - 3, seed) for seed in range(2)])):
        ours, expected = generate_with_and_without_graphs(model, ids, **settings)
        assert torch.equal(ours, expected)
    assert attended_lengths


def test_prompt_lookup_decoding_alternates_with_single_tokens(attended_lengths: list[int]) -> None:
    model = build_golden()
    settings = {"max_new_tokens": 30, "min_new_tokens": 30}
    ours, expected = generate_with_and_without_graphs(model, prompt_of(40), prompt_lookup_num_tokens=2, **settings)
    assert torch.equal(ours, expected)
    assert torch.equal(ours, generate_with_and_without_graphs(model, prompt_of(40), **settings)[1])


def test_streamed_answers(attended_lengths: list[int]) -> None:
    model = copy.deepcopy(tiny_model())
    greedy = {"do_sample": False, "min_length": 0, "repetition_penalty": 1}
    answer = tiny_model().chat(tiny_tokenizer(), None, "你好", **greedy)
    attended_lengths.clear()
    assert model.chat(tiny_tokenizer(), None, "你好", **greedy) == answer
    assert [*model.stream_chat(tiny_tokenizer(), None, "你好", **greedy)][-1] == answer
    assert attended_lengths
    next(stream := model.stream_chat(tiny_tokenizer(), None, "你好", **greedy))
    stream.close()
    assert model.graph_cache.idle is not None


def test_buffers_are_reused_without_old_content(attended_lengths: list[int]) -> None:
    model = build_golden()
    model.generate(prompt_of(2 * CAPACITY_STEP), **GREEDY)
    buffers = model.graph_cache.idle
    assert buffers is not None
    buffers.states.fill_(torch.nan)
    buffers.visible.fill_(False)
    assert_same_logits(model, prompt_of(10))
    assert model.graph_cache.idle is buffers


def test_a_returned_cache_belongs_to_the_caller(attended_lengths: list[int]) -> None:
    model = build_golden()
    asked = {**GREEDY, "return_dict_in_generate": True}
    cache = model.generate(prompt_of(20), **asked).past_key_values
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    model.generate(prompt_of(30), **asked)
    expected = golden_model().generate(prompt_of(20), **asked, past_key_values=None).past_key_values
    for layer, kept, other in zip(cache.layers, before, expected.layers, strict=True):
        assert torch.equal(layer.keys, kept[0])
        assert torch.equal(layer.values, kept[1])
        torch.testing.assert_close(layer.keys, other.keys)
    with torch.no_grad():  # the cache can be continued
        place = torch.tensor([[[18], [9]]])
        model(torch.tensor([[30]]), past_key_values=cache, position_ids=place)
    assert cache.get_seq_length() == before[0][0].shape[2] + 1


def test_a_copy_of_the_cache_is_independent(attended_lengths: list[int]) -> None:
    model = build_golden()
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
    assert all(cache.graph_decoding is None for cache in copies)


def test_changed_weights_invalidate_graphs(attended_lengths: list[int]) -> None:
    model = build_golden()
    expected = weights_fingerprint(model)
    assert weights_fingerprint(model) == expected
    model.generate(prompt_of(20), **GREEDY)
    model.double()
    assert model.graph_cache.idle is None
    assert_same_logits(model, prompt_of(20))
    buffers = model.graph_cache.idle
    model.quantize(8)
    assert_same_logits(model, prompt_of(20))
    assert model.graph_cache.idle is not buffers


def test_unsupported_modules_and_options_decode_without_graphs(attended_lengths: list[int]) -> None:
    model = build_golden()
    layer = model.transformer.layers[1]
    hook = layer.mlp.register_forward_hook(lambda *args: None)
    assert weights_fingerprint(model) is None
    model.generate(prompt_of(20), **GREEDY)
    hook.remove()
    model.generate(prompt_of(20), **GREEDY, output_hidden_states=True, return_dict_in_generate=True)
    model.generate(prompt_of(20), **GREEDY, use_cache=False)
    model.generate(prompt_of(20), **GREEDY, cache_implementation="static")
    assert attended_lengths == []
    assert weights_fingerprint(model) is not None
    assert weights_fingerprint(model.train()) is None
    model.eval()
    layer.mlp.dense_h_to_4h = torch.nn.Sequential(layer.mlp.dense_h_to_4h)
    assert weights_fingerprint(model) is None


def test_concurrent_generations_have_their_own_buffers(attended_lengths: list[int]) -> None:
    model = build_golden()
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


def test_in_inference_mode_and_out_of_it(attended_lengths: list[int]) -> None:
    model = build_golden()
    expected = golden_model().generate(prompt_of(20), **GREEDY)
    with torch.inference_mode():
        inside = model.generate(prompt_of(20), **GREEDY)
    assert torch.equal(inside, expected)
    assert torch.equal(model.generate(prompt_of(20), **GREEDY), expected)


def test_copies_of_a_model_have_no_buffers(attended_lengths: list[int]) -> None:
    model = build_golden()
    model.generate(prompt_of(20), **GREEDY)
    assert model.graph_cache.idle is not None
    assert copy.deepcopy(model).graph_cache.idle is None
    assert pickle.loads(pickle.dumps(model.graph_cache)).idle is None


def test_a_failed_generation_releases_its_buffers(attended_lengths: list[int]) -> None:
    model = build_golden()

    def fail(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 23:
            raise KeyError("stopped")
        return scores

    with pytest.raises(KeyError, match="stopped"):
        model.generate(prompt_of(20), **GREEDY, logits_processor=[fail])
    assert model.graph_cache.idle is not None


def test_the_largest_idle_buffers_are_kept() -> None:
    graph_cache, like = GraphCache(), torch.zeros(1, 2, 1, 4)
    small, large = graph_cache.acquire(like, 3, 20, ()), graph_cache.acquire(like, 3, 2 * CAPACITY_STEP, ())
    assert (small.capacity, large.capacity) == (CAPACITY_STEP, 3 * CAPACITY_STEP)
    for buffers in (small, large, small):
        graph_cache.release(buffers)
    assert graph_cache.idle is large
    assert graph_cache.acquire(like.expand(2, -1, -1, -1), 3, 20, ()).batch_size == 2
    assert graph_cache.idle is None


def test_graphs_are_switched_off_by_the_former_names(attended_lengths: list[int]) -> None:
    model = build_golden()
    with pytest.warns(DeprecationWarning) as warned:
        model.rooms.records = False
        assert not model.rooms.records
    assert {str(one.message).split()[0] for one in warned} == {"rooms", "records"}
    assert {Path(one.filename).name for one in warned} == {Path(__file__).name}
    assert not model.graph_cache.enabled
    model.generate(prompt_of(20), **GREEDY)
    assert not attended_lengths


def test_decode_positions_match_the_complete_sequence(golden_pixels: torch.Tensor) -> None:
    model, positions = build_golden(), []
    model.transformer.register_forward_pre_hook(
        lambda module, given, named: positions.append(named["position_ids"]), with_kwargs=True
    )
    batch = left_padded_batch(golden_pixels)
    ids = model.generate(**batch, **GREEDY)
    later = torch.cat(positions[1:], dim=-1)
    positions.clear()
    batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 7), value=1)
    with torch.no_grad():
        model(**{**batch, "input_ids": ids[:, :-1]})
    assert torch.equal(later, positions[0][..., -7:])
    text = prompt_ids("zh_text")
    assert model.generate(text, **image_arguments("zh_text", golden_pixels), **GREEDY).shape[1] == text.shape[1] + 8
