"""Small Hugging Face models and prompts for them."""

import functools
import json
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.resolve import EMBEDDED
from model.hf import ChatGLMConfig, ChatGLMTokenizer
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.conftest import GOLDENS
from tests.goldens import golden_weights

TINY = EMBEDDED / "visualglm-tiny"
SPEC: dict[str, Any] = json.loads((GOLDENS / "tiny" / "model.json").read_text(encoding="utf-8"))
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
CASES = ["zh_image", "en_image", "zh_history_image", "zh_text"]


def build_golden(**changes: Any) -> HfModel:
    """Build the goldens' Hugging Face model with its weights, in float32 on the CPU."""
    model = HfModel(ChatGLMConfig(**{**SPEC["hf_config"], **changes}))
    golden_weights.fill(model.named_parameters(), SPEC["seed"])
    return model.float().eval()


@functools.cache
def golden_model() -> HfModel:
    """Return the goldens' Hugging Face model. Do not modify it; build another one with `build_golden`."""
    return build_golden()


def load_tiny(directory: Path = TINY) -> HfModel:
    """Load visualglm-tiny in float32."""
    return HfModel.from_pretrained(directory, dtype=torch.float32)


@functools.cache
def tiny_model() -> HfModel:
    """Return visualglm-tiny. Do not modify it; load another one with `load_tiny`."""
    return load_tiny()


@functools.cache
def tiny_tokenizer() -> ChatGLMTokenizer:
    """Return the tokenizer of visualglm-tiny."""
    return ChatGLMTokenizer.from_pretrained(TINY)


def image_arguments(name: str, pixels: torch.Tensor) -> dict[str, Any]:
    """Return the image arguments of a golden case; empty if it has no image."""
    case = SPEC["cases"][name]
    return {"images": pixels[[case["image_index"]]], "pre_image_length": case["image_start"]} if case["image"] else {}


def prompt_ids(name: str) -> torch.Tensor:
    """Return the token ids [1, T] of a golden prompt."""
    return torch.tensor([SPEC["cases"][name]["input_ids"]])


def left_padded_batch(pixels: torch.Tensor, names: list[str] = CASES) -> dict[str, torch.Tensor]:
    """Return golden prompts as one left-padded batch, with an image for each sequence."""
    prompts = [SPEC["cases"][name]["input_ids"] for name in names]
    pads = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
    starts = [SPEC["cases"][name]["image_start"] if SPEC["cases"][name]["image"] else None for name in names]
    indices = [SPEC["cases"][name]["image_index"] or 0 for name in names]
    return {
        "input_ids": torch.tensor([[3] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]),
        "attention_mask": torch.tensor([[0] * pad + [1] * len(row) for pad, row in zip(pads, prompts, strict=True)]),
        "images": pixels[indices],
        "pre_image_length": torch.tensor(
            [-1 if start is None else pad + start for pad, start in zip(pads, starts, strict=True)]
        ),
    }


def prompt_of(length: int, seed: int = 0) -> torch.Tensor:
    """Return random ids [1, length] that end with [gMASK] <sop>."""
    config = golden_model().config
    ids = torch.randint(20, 60, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, -2:] = torch.tensor([config.gmask_token_id, config.bos_token_id])
    return ids


def generate_with_and_without_graphs(model: HfModel, ids: torch.Tensor, **settings: Any) -> tuple[Any, Any]:
    """Generate in decode buffers, then layer by layer."""
    found = []
    for model.graph_cache.enabled in (True, False):
        torch.manual_seed(0)
        found.append(model.generate(ids, **{**GREEDY, **settings}))
    model.graph_cache.enabled = True
    return found[0], found[1]


def assert_same_logits(model: HfModel, ids: torch.Tensor, **settings: Any) -> None:
    """Compare the logits and tokens of all steps."""
    ours, expected = generate_with_and_without_graphs(
        model, ids, return_dict_in_generate=True, output_logits=True, **settings
    )
    assert torch.equal(ours.sequences, expected.sequences)
    for one, other in zip(ours.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
