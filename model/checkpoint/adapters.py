"""What a fine-tune adds to a SAT checkpoint: LoRA, which can be merged into the weights, and what cannot.

LoRA wraps a linear layer: `original.weight` [out, in], `matrix_A.i` [r, in] and `matrix_B.i` [out / n, r] for each of
its n parts (q, k, v), with weight = original + alpha / r * cat(B_i A_i). Paper: https://arxiv.org/abs/2106.09685.
P-tuning adds keys and values to every layer's attention. Paper: https://arxiv.org/abs/2110.07602.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import CheckpointError
from .lazy import LazyTensors, Tensors, makers_of, misfit_explained

LORA, PTUNING, QLORA = "LoRA", "P-tuning", "QLoRA"
PATTERNS = {
    QLORA: re.compile(r"\.weight\.(absmax|quant_map|nested_|quant_state)|\.quant_state$"),
    LORA: re.compile(r"\.(matrix_[AB]\.\d+|original\.(weight|bias))$"),
    PTUNING: re.compile(r"\.prefix\.\d+$|^transformer\.prefix_encoder\."),
}
FIRST_A, ORIGINAL = ".matrix_A.0", ".original.weight"
# Entries of model_config.json that describe what was added, by method.
SETTINGS = {
    "use_lora",
    "use_qlora",
    "round_embeddings",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "layer_range",
    "use_ptuning",
    "pre_seq_len",
}


def method_of(name: str) -> str | None:
    """Return the method of fine-tuning that adds a tensor of this name, None for a tensor of the plain model."""
    return next((method for method, pattern in PATTERNS.items() if pattern.search(name)), None)


def methods_in(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names that fine-tuning added, by method."""
    found: dict[str, list[str]] = {}
    for name in names:
        method = method_of(name)
        if method is not None:
            found.setdefault(method, []).append(name)
    return found


def merge_lora(tensors: Tensors, alpha: float) -> Tensors:
    """Return `tensors` with each LoRA layer merged into one plain weight, under the plain names.

    The rows are those of the file: with rows interleaved by head, the parts of query_key_value were not q, k and v.

    Args:
        alpha: LoRA's scale, divided by the rank.

    Raises:
        CheckpointError: another method has left tensors, or the layers' own weights are not there.
    """
    refuse_unmergeable(tensors)
    layers = [name.removesuffix(FIRST_A) for name in tensors if name.endswith(FIRST_A)]
    absent = [layer for layer in layers if layer + ORIGINAL not in tensors]
    if absent:
        raise CheckpointError(
            f"{absent[0]} has LoRA's matrices but no original.weight: only what was trained was saved. "
            "Name the model that it began from, by --base NAME or base=NAME."
        )
    makers = {name.replace(".original.", "."): make for name, make in makers_of(tensors).items() if not is_factor(name)}
    for layer in layers:
        makers[f"{layer}.weight"] = partial(merge_layer, tensors, layer, alpha)
    return LazyTensors(makers)


def refuse_unmergeable(names: Iterable[str]) -> None:
    """Raise CheckpointError for what no plain weight can express."""
    methods = methods_in(names)
    if PTUNING in methods:
        raise CheckpointError(
            f"P-tuning ({methods[PTUNING][0]} and others) cannot be merged: its prefixes are keys and values that "
            "attention sees in every layer, which no weight of the plain model can stand for. "
            "Load it with the model class that it was trained with."
        )
    if QLORA in methods:
        raise CheckpointError(
            f"QLoRA's 4-bit weights ({methods[QLORA][0]} and others) are bitsandbytes' own and are not read here. "
            "Merge them with the program that trained them."
        )


def is_factor(name: str) -> bool:
    """Whether `name` is one of LoRA's two factors."""
    return ".matrix_A." in name or ".matrix_B." in name


def merge_layer(tensors: Tensors, layer: str, alpha: float) -> torch.Tensor:
    """Return the weight [out, in] of one layer, original and LoRA together, in the original's dtype."""
    downs: list[torch.Tensor] = []
    ups: list[torch.Tensor] = []
    while f"{layer}.matrix_A.{len(downs)}" in tensors:
        with misfit_explained(layer):
            ups.append(tensors[f"{layer}.matrix_B.{len(downs)}"])  # [out / n, r]
        downs.append(tensors[f"{layer}.matrix_A.{len(downs)}"])  # [r, in]
    with misfit_explained(layer):
        return merged_weight(tensors[layer + ORIGINAL], downs, ups, alpha / max(1, len(downs[0])))


def merged_weight(
    weight: torch.Tensor, downs: Sequence[torch.Tensor], ups: Sequence[torch.Tensor], scaling: float
) -> torch.Tensor:
    """Return weight + scaling * cat(up @ down) [out, in] in the weight's dtype, computed in float32."""
    parts = [up.float() @ down.float() * scaling for down, up in zip(downs, ups, strict=True)]
    return (weight.float() + torch.cat(parts)).to(weight.dtype)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model_config.json's entries as they are once nothing is added to the model."""
    kept = {key: value for key, value in config.items() if key not in SETTINGS}
    return {**kept, "model_class": "VisualGLMModel"}
