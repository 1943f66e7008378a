"""Masks, positions and image placeholders match their definitions for each sequence."""

from typing import Any

import pytest
import torch

from model.hf.layers_chatglm import (
    SpecialTokenIds,
    context_lengths,
    decode_mask,
    image_starts,
    insert_images,
    prefill_mask,
    token_positions,
    visible_tokens,
)
from tests.helpers.hf_models import CASES, SPEC

MARKS = SpecialTokenIds(bos=94, gmask=91, mask=90, pad=3)
# Row 0: a pad, three context tokens with [gMASK]. Row 1: four context tokens with [MASK], no pad. Then <sop> and two
# answer tokens each.
IDS = torch.tensor([[3, 10, 11, 91, 94, 20, 21], [12, 13, 14, 90, 94, 20, 21]])


def seen_by_definition(ids: list[int], hidden: set[int]) -> list[list[bool]]:
    """Build a prefix mask token by token."""
    context = ids.index(MARKS.bos)
    return [
        [(column <= row or column < context) and column not in hidden for column in range(len(ids))]
        for row in range(len(ids))
    ]


def test_context_is_bidirectional_and_answer_causal() -> None:
    visible = visible_tokens(IDS, None, torch.tensor([-1, -1]), 2, MARKS.pad)
    mask = prefill_mask(context_lengths(IDS, MARKS.bos), visible)
    assert mask[0, 0, 1:].tolist() == seen_by_definition(IDS[0].tolist(), {0})[1:]
    assert mask[1, 0].tolist() == seen_by_definition(IDS[1].tolist(), set())
    assert torch.equal(decode_mask(visible, 2), mask[:, :, -2:])
    assert mask.any(-1).all()  # a row without any True would give NaN


def test_positions_count_the_context_and_the_answer_and_no_padding() -> None:
    visible = visible_tokens(IDS, None, torch.tensor([-1, -1]), 2, MARKS.pad)
    positions = token_positions(IDS, visible, MARKS)
    assert positions[0, :, 1:].tolist() == [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]]
    assert positions[1].tolist() == [[0, 1, 2, 3, 3, 3, 3], [0, 0, 0, 0, 1, 2, 3]]


def test_without_a_mask_token_positions_count_on() -> None:
    positions = token_positions(torch.tensor([[10, 11, 94, 20]]), None, MARKS)
    assert positions[0].tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]


@pytest.mark.parametrize("name", CASES)
def test_positions_are_the_originals(name: str, golden_numbers: Any) -> None:
    expected = golden_numbers[f"sat/{name}/position_ids"]
    config = SPEC["hf_config"]
    special_ids = SpecialTokenIds(*(config[f"{token}_token_id"] for token in ("bos", "gmask", "mask", "pad")))
    prompt = SPEC["cases"][name]["input_ids"]
    ids = torch.tensor([prompt + [5] * (expected.shape[-1] - len(prompt))])
    assert token_positions(ids, None, special_ids).tolist() == expected.tolist()


def test_a_mask_made_of_pads_does_not_hide_image_placeholders() -> None:
    ids = torch.tensor([[3, 8, 3, 3, 9, 91, 94]])  # a pad, <img>, two placeholders, a token
    visible = visible_tokens(ids, (ids != 3).long(), torch.tensor([2]), 2, MARKS.pad)
    assert visible.tolist() == [[False, True, True, True, True, True, True]]


def test_a_prompt_without_sop_is_refused() -> None:
    with pytest.raises(ValueError, match="<sop>"):
        context_lengths(torch.tensor([[10, 91, 94], [10, 91, 20]]), MARKS.bos)


def test_image_embeddings_replace_placeholders_and_gradients_flow() -> None:
    embeddings = torch.zeros(3, 5, 2, requires_grad=True)
    images = torch.arange(1.0, 13.0).view(3, 2, 2).requires_grad_()
    result = insert_images(embeddings, images, torch.tensor([0, 3, -1]))
    assert torch.equal(result[0, :2], images[0])
    assert torch.equal(result[1, 3:], images[1])
    assert not result[2].any()
    assert not result[0, 2:].any()
    assert not result[1, :3].any()
    result.sum().backward()
    assert images.grad is not None
    assert images.grad.tolist() == [[[1, 1], [1, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]


def test_one_image_serves_every_sequence() -> None:
    result = insert_images(torch.zeros(2, 4, 1), torch.ones(1, 2, 1), image_starts(1, 2, torch.device("cpu")))
    assert result[..., 0].tolist() == [[0, 1, 1, 0]] * 2


@pytest.mark.parametrize(
    ("starts", "images", "message"), [([3], 1, "too short"), ([0, 0], 3, "3 images for 2"), ([0] * 3, 1, "3 numbers")]
)
def test_images_that_do_not_fit_are_refused(starts: list[int], images: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        insert_images(torch.zeros(2, 4, 1), torch.ones(images, 2, 1), image_starts(starts, 2, torch.device("cpu")))
