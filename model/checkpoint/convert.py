"""Writing a model's weights in the Hugging Face format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .hf import IMAGE_PREFIX, RENAMED, SAME_KEYS, SAT_IMAGE_PREFIX, is_language_qkv
from .load import IGNORED, RECOMPUTED
from .qkv import interleave_qkv

HF_CLASS = "ChatGLMForConditionalGenerationWithImage"
SAT_RENAMED = {sat_name: hf_name for hf_name, sat_name in RENAMED.items()}


def to_hf_name(name: str) -> str:
    """Return the HF name of a SAT tensor."""
    if name.startswith(SAT_IMAGE_PREFIX):
        return IMAGE_PREFIX + name.removeprefix(SAT_IMAGE_PREFIX)
    return SAT_RENAMED.get(name, name)


def to_hf_tensors(tensors: Mapping[str, torch.Tensor], heads: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Rename SAT tensors, put query-key-value rows in HF's order, and round to `dtype`."""
    renamed = {}
    for name, tensor in tensors.items():
        if name in IGNORED or name.endswith(RECOMPUTED):
            continue
        rows = interleave_qkv(tensor, heads) if is_language_qkv(name) else tensor
        renamed[to_hf_name(name)] = rows.detach().to("cpu", dtype).contiguous()
    return renamed


def to_hf_config(config: Mapping[str, Any], eos_token_id: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the entries of config.json for those of a SAT model_config.json."""
    return {
        "architectures": [HF_CLASS],
        "model_type": "chatglm",
        **{key: config[key] for key in SAME_KEYS},
        "eos_token_id": eos_token_id,
        "position_encoding_2d": True,
        "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "eva_config": config["eva_args"],
        "qformer_config": config["qformer_args"],
    }


def save_hf(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    *,
    eos_token_id: int,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write config.json and model.safetensors into `directory`, each complete or not at all.

    Args:
        tensors: a SAT state dict.
        config: the entries of a SAT model_config.json.
    """
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "model.safetensors.part"
    save_file(to_hf_tensors(tensors, config["num_attention_heads"], dtype), weights, metadata={"format": "pt"})
    weights.replace(directory / "model.safetensors")
    text = json.dumps(to_hf_config(config, eos_token_id, dtype), indent=2, ensure_ascii=False)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
