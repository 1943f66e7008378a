"""The preallocated cache gives the same results as transformers' DynamicCache, without copying stored tokens."""

import copy

import pytest
import torch
from transformers import DynamicCache

from model.hf.generation_chatglm import LAYER_GROWTH, PreallocatedLayer, new_cache
from tests.helpers.hf_models import build_golden, golden_model, image_arguments, left_padded_batch, prompt_ids

SHAPE = (2, 3, 1, 4)  # [B, H, N, head_dim]


def stored(tokens: int) -> PreallocatedLayer:
    """Return a cache layer to which random tokens were appended one by one."""
    layer = PreallocatedLayer()
    for _ in range(tokens):
        layer.update(torch.randn(SHAPE), torch.randn(SHAPE))
    return layer


@torch.no_grad()
def test_tokens_are_appended_in_place() -> None:
    layer, joined = PreallocatedLayer(), torch.empty(2, *SHAPE[:2], 0, SHAPE[-1])
    places = set()
    for _ in range(LAYER_GROWTH + 5):
        token = torch.randn(2, *SHAPE)
        shown = layer.update(*token)
        joined = torch.cat((joined, token), dim=-2)
        assert torch.equal(torch.stack(shown), joined)
        places.add(shown[0].data_ptr())
    assert layer.get_seq_length() == LAYER_GROWTH + 5
    assert len(places) == 2  # the first buffer, and the next one once it was full


@torch.no_grad()
@pytest.mark.parametrize("change", ["reorder", "crop", "repeat", "copy"])
def test_keys_replaced_by_transformers_are_continued(change: str) -> None:
    layer = stored(4)
    before = layer.keys.clone()
    if change == "reorder":
        layer.reorder_cache(torch.tensor([1, 1]))
        expected = before[[1, 1]]
    elif change == "crop":
        layer.crop(-2)
        expected = before[:, :, :2]
    elif change == "repeat":
        layer.batch_repeat_interleave(2)
        expected = before.repeat_interleave(2, dim=0)
    else:
        other = copy.deepcopy(layer)
        other.update(torch.randn(SHAPE), torch.randn(SHAPE))
        expected = before
    token = torch.randn(len(expected), *SHAPE[1:])
    keys, _ = layer.update(token, token)
    assert torch.equal(keys, torch.cat((expected, token), dim=-2))


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}, {"num_return_sequences": 2, "do_sample": True}]
)
def test_answers_match_transformers_cache(settings: dict[str, object], golden_pixels: torch.Tensor) -> None:
    asked = {**left_padded_batch(golden_pixels), "max_new_tokens": 6, "do_sample": False, **settings}
    torch.manual_seed(0)
    ours = golden_model().generate(**asked)
    torch.manual_seed(0)
    assert torch.equal(ours, golden_model().generate(**asked, past_key_values=DynamicCache()))


def test_prompt_lookup_decoding_changes_no_answer(golden_pixels: torch.Tensor) -> None:
    asked = {**image_arguments("zh_image", golden_pixels), "max_new_tokens": 8, "do_sample": False}
    expected = golden_model().generate(prompt_ids("zh_image"), **asked)
    assert torch.equal(golden_model().generate(prompt_ids("zh_image"), **asked, prompt_lookup_num_tokens=3), expected)


def test_a_single_token_after_a_context_without_padding_has_no_mask(golden_pixels: torch.Tensor) -> None:
    model, masks = build_golden(), []
    model.transformer.register_forward_pre_hook(
        lambda module, given, named: masks.append(named["mask"]), with_kwargs=True
    )
    model.generate(
        prompt_ids("zh_image"), **image_arguments("zh_image", golden_pixels), max_new_tokens=3, do_sample=False
    )
    assert [mask is None for mask in masks] == [False, True, True]
    masks.clear()
    model.generate(**left_padded_batch(golden_pixels), max_new_tokens=3, do_sample=False)
    assert not any(mask is None for mask in masks)


def test_gradients_go_through_cached_keys() -> None:
    cache = new_cache()
    token = torch.randn(SHAPE, requires_grad=True)
    cache.update(token, token, 0)
    keys, _ = cache.update(token, token, 0)
    keys.sum().backward()
    assert token.grad is not None
    assert torch.equal(token.grad, torch.full(SHAPE, 2.0))
