"""PEFT's LoRA can be added, trained with gradient checkpointing, used and merged; accelerate dispatches modules."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.conftest import relative_error
from tests.helpers.hf_models import (
    SPEC,
    TINY,
    build_golden,
    golden_model,
    image_arguments,
    prompt_ids,
    tiny_model,
    tiny_tokenizer,
)

# These libraries use deprecated names of transformers.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def adapt(model: HfModel) -> Any:
    """Add LoRA to the attention layers of `model`."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    return peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["query_key_value", "dense"], task_type="CAUSAL_LM")
    )


def test_lora_changes_nothing_until_it_is_trained_and_merges_into_what_it_learnt(golden_pixels: torch.Tensor) -> None:
    adapted, image_inputs = adapt(build_golden()), image_arguments("zh_image", golden_pixels)
    ids = torch.tensor([SPEC["cases"]["zh_image"]["input_ids"] + SPEC["cases"]["zh_image"]["continuation"]])
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids, **image_inputs).logits, golden_model()(ids, **image_inputs).logits)
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    adapted.train()
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], 1e-2)
    losses = []
    for _ in range(4):
        loss = adapted(input_ids=ids, labels=ids, **image_inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    adapted.eval()
    with torch.no_grad():
        expected = adapted(input_ids=ids, **image_inputs).logits
        merged = adapted.merge_and_unload()
        assert isinstance(merged, HfModel)
        assert relative_error(merged(ids, **image_inputs).logits, expected) < 1e-5


def test_an_adapted_model_generates_and_chats(golden_pixels: torch.Tensor) -> None:
    image_inputs = image_arguments("zh_image", golden_pixels)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = golden_model().generate(input_ids=prompt_ids("zh_image"), **image_inputs, **settings)
    adapted = adapt(build_golden())
    assert torch.equal(adapted.generate(input_ids=prompt_ids("zh_image"), **image_inputs, **settings), expected)
    chatting = adapt(HfModel.from_pretrained(TINY, dtype=torch.float32))
    greedy = {"do_sample": False, "min_length": 0}
    answer = chatting.chat(tiny_tokenizer(), None, "你好", **greedy)
    assert answer == tiny_model().chat(tiny_tokenizer(), None, "你好", **greedy)


@pytest.mark.parametrize(
    "device_map",
    [
        "auto",
        {"": "cpu"},
        {"transformer": "cpu", "lm_head": "cpu", "image_encoder": "disk"},
        {"transformer": "disk", "lm_head": "cpu", "image_encoder": "cpu"},
    ],
)
def test_modules_may_be_on_several_devices(device_map: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    image_inputs = Path(__file__).parents[3] / "examples" / "scene.png"
    placed = HfModel.from_pretrained(TINY, dtype=torch.float32, device_map=device_map, offload_folder=tmp_path)
    greedy = {"do_sample": False, "min_length": 0}
    answer = placed.chat(tiny_tokenizer(), image_inputs, "描述这张图片。", **greedy)
    assert answer == tiny_model().chat(tiny_tokenizer(), image_inputs, "描述这张图片。", **greedy)
