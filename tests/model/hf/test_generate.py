"""transformers' `generate` with our network: greedy, sampling, beam search, batches, images, length limits."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.helpers.hf_models import (
    CASES,
    SPEC,
    golden_model,
    image_arguments,
    left_padded_batch,
    prompt_ids,
    tiny_model,
    tiny_tokenizer,
)

STEPS = 8


def continue_greedily(ids: torch.Tensor, steps: int = STEPS, **kwargs: Any) -> torch.Tensor:
    """Return the most likely tokens [B, steps] after prompts [B, T]."""
    settings = {"do_sample": False, "max_new_tokens": steps, "min_new_tokens": steps, **kwargs}
    return golden_model().generate(input_ids=ids, **settings)[:, ids.shape[1] :]


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_are_the_originals(name: str, golden_pixels: torch.Tensor, golden_numbers: Any) -> None:
    expected = golden_numbers[f"hf/{name}/greedy"].tolist()
    tokens = continue_greedily(prompt_ids(name), len(expected), **image_arguments(name, golden_pixels))
    assert tokens[0].tolist() == expected


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_no_cache_changes_a_token(settings: dict[str, Any], golden_pixels: torch.Tensor) -> None:
    image_inputs = image_arguments("zh_image", golden_pixels)
    expected = continue_greedily(prompt_ids("zh_image"), **image_inputs)
    assert torch.equal(continue_greedily(prompt_ids("zh_image"), **image_inputs, **settings), expected)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_a_left_padded_batch_answers_as_each_row_alone(
    masked: bool, num_beams: int, golden_pixels: torch.Tensor
) -> None:
    batch = left_padded_batch(golden_pixels)
    if not masked:  # transformers then treats the placeholders, which have the pad id, as padding
        del batch["attention_mask"]
    ids, starts = batch.pop("input_ids"), batch.pop("pre_image_length")
    together = continue_greedily(ids, num_beams=num_beams, pre_image_length=starts.tolist(), **batch)
    for row, name in enumerate(CASES):
        image_inputs = image_arguments(name, golden_pixels)
        alone = continue_greedily(prompt_ids(name), num_beams=num_beams, **image_inputs)
        assert torch.equal(together[row], alone[0]), name


def test_one_offset_serves_several_images_and_one_image_several_prompts(golden_pixels: torch.Tensor) -> None:
    ids = prompt_ids("zh_image").expand(2, -1)
    start = SPEC["cases"]["zh_image"]["image_start"]
    two = continue_greedily(ids, images=golden_pixels, pre_image_length=start)
    first, second = (continue_greedily(ids[:1], images=golden_pixels[[i]], pre_image_length=start)[0] for i in range(2))
    assert torch.equal(two, torch.stack((first, second)))
    assert not torch.equal(first, second)
    one = continue_greedily(ids, images=golden_pixels[:1], pre_image_length=start)
    assert torch.equal(one, torch.stack((first, first)))


def test_beams_find_no_less_likely_answers_than_greedy(golden_pixels: torch.Tensor) -> None:
    ids, image_inputs = prompt_ids("zh_image"), image_arguments("zh_image", golden_pixels)

    def likelihood(tokens: torch.Tensor) -> float:
        with torch.no_grad():
            logits = golden_model()(torch.cat((ids, tokens), dim=1), **image_inputs).logits
        steps = logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        return steps.gather(1, tokens[0][:, None]).sum().item()

    beams = continue_greedily(ids, num_beams=5, **image_inputs)
    assert likelihood(beams) >= likelihood(continue_greedily(ids, **image_inputs)) - 1e-4
    assert torch.equal(continue_greedily(ids, num_beams=5, use_cache=False, **image_inputs), beams)


def test_an_image_is_encoded_once_for_all_beams(golden_pixels: torch.Tensor) -> None:
    calls: list[int] = []
    hook = golden_model().image_encoder.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    try:
        continue_greedily(prompt_ids("zh_image"), num_beams=3, **image_arguments("zh_image", golden_pixels))
    finally:
        hook.remove()
    assert calls == [1]


def test_sampling_repeats_with_the_seed_and_varies_without(golden_pixels: torch.Tensor) -> None:
    image_inputs = image_arguments("zh_image", golden_pixels)

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return continue_greedily(prompt_ids("zh_image"), do_sample=True, num_return_sequences=3, **image_inputs)

    assert sample(1).shape == (3, STEPS)
    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_what_the_tokenizer_pads_can_be_passed_on() -> None:
    tokenizer = tiny_tokenizer()
    texts = ["问：你好\n答：", "问：图片里有几个物体？请告诉我。\n答："]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    assert {"attention_mask", "position_ids"} <= batch.keys()
    settings = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS}
    together = tiny_model().generate(**batch, **settings)[:, -STEPS:]
    for row, text in enumerate(texts):
        alone = tiny_model().generate(**tokenizer(text, return_tensors="pt"), **settings)
        assert torch.equal(together[row], alone[0, -STEPS:])


@pytest.mark.parametrize("as_config", [True, False])
@pytest.mark.parametrize("limit", [1, 40])
def test_a_limit_that_the_prompt_reaches_gives_one_token_and_a_warning(limit: int, as_config: bool) -> None:
    ids = torch.cat((torch.full((1, 50), 20), prompt_ids("zh_text")), dim=1)
    settings: dict[str, Any] = {"max_length": limit, "do_sample": False}
    if as_config:
        settings = {"generation_config": GenerationConfig(**settings)}
    with pytest.warns(UserWarning, match=f"max_length={limit}"):
        tokens = golden_model().generate(ids, **settings)
    assert tokens.shape[1] == ids.shape[1] + 1


def test_images_must_fit_the_prompts(golden_pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"2.* 3 "):
        continue_greedily(prompt_ids("zh_image").expand(3, -1), images=golden_pixels, pre_image_length=3)


def test_a_prompt_is_needed() -> None:
    with pytest.raises(ValueError, match="input_ids"):
        golden_model().generate(max_new_tokens=1)
