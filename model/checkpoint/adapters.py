"""Adapters in SAT checkpoints: LoRA, which can be merged into the weights; P-tuning and QLoRA, which cannot.

LoRA wraps a linear layer: `original.weight` [out, in], `matrix_A.i` [r, in] and `matrix_B.i` [out / n, r] for each of
its n partitions (q, k, v); merged weight = original + alpha / r * cat(B_i A_i). https://arxiv.org/abs/2106.09685
P-tuning adds keys and values to the attention of every layer. https://arxiv.org/abs/2110.07602
"""

import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..tensors import LazyTensors, Tensors, loaders_of, translate_shape_errors
from .layout import INTERLEAVED, interleave_qkv, is_language_qkv

# Entry of a fine-tune's model_config.json that names its base model.
BASE_KEY = "base_model"
MAX_BASES = 8  # maximum length of a chain of fine-tunes, each of which is the base of the next
BASE_SIZE_KEYS = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size")

LORA, PTUNING, QLORA = "LoRA", "P-tuning", "QLoRA"
METHOD_PATTERNS = {
    QLORA: re.compile(r"\.weight\.(absmax|quant_map|nested_|quant_state)|\.quant_state$"),
    LORA: re.compile(r"\.(matrix_[AB]\.\d+|original\.(weight|bias))$"),
    PTUNING: re.compile(r"\.prefix\.\d+$|^transformer\.prefix_encoder\."),
}
SAT_PREFIX_NAME = re.compile(r"^mixins\.[^.]+\.prefix\.(\d+)$")
PREFIX_TABLE = "transformer.prefix_encoder.embedding.weight"
FIRST_A, ORIGINAL = ".matrix_A.0", ".original.weight"
# The linear layers that LoRA can adapt, and the number of partitions of each.
PARTITIONS = {
    "query_key_value": 3,
    "key_value": 2,
    "query": 1,
    "dense": 1,
    "dense_h_to_4h": 1,
    "dense_4h_to_h": 1,
    "lm_head": 1,
}
# Entries of model_config.json that describe the adapter; the fine-tuning program has a flag for each.
METHOD_SWITCHES = ("use_lora", "use_qlora", "use_ptuning")
LORA_DEFAULTS: dict[str, Any] = {
    "lora_rank": 10,
    "lora_alpha": 1.0,
    "lora_dropout": 0.0,
    "layer_range": None,
    "lora_targets": ("llm",),
}
METHOD_SETTINGS = {*METHOD_SWITCHES, *LORA_DEFAULTS, "round_embeddings", "pre_seq_len"}


def method_of(name: str) -> str | None:
    """Return the fine-tuning method whose adapter has a tensor of this name; None for a tensor of the base model."""
    return next((method for method, pattern in METHOD_PATTERNS.items() if pattern.search(name)), None)


def methods_in(names: Iterable[str]) -> dict[str, list[str]]:
    """Group the names of adapter tensors by fine-tuning method."""
    found: dict[str, list[str]] = {}
    for name in names:
        method = method_of(name)
        if method is not None:
            found.setdefault(method, []).append(name)
    return found


def merge_lora(tensors: Tensors, alpha: float) -> Tensors:
    """Merge each LoRA layer of `tensors` into one weight, under the name in the base model.

    The row order stays that of the file: LoRA that was trained on interleaved rows has partitions other than q, k, v.

    Args:
        alpha: LoRA is scaled by alpha / rank.

    Raises:
        CheckpointError: there are tensors of another method, or the original weights are missing.
    """
    refuse_unmergeable(tensors)
    layers = [name.removesuffix(FIRST_A) for name in tensors if name.endswith(FIRST_A)]
    absent = [layer for layer in layers if layer + ORIGINAL not in tensors]
    if absent:
        raise CheckpointError(
            f"{absent[0]} has LoRA matrices but no original.weight: the checkpoint contains only the adapter. "
            "Give its base model by --base NAME or base=NAME."
        )
    loaders = {
        name.replace(".original.", "."): load for name, load in loaders_of(tensors).items() if not is_factor(name)
    }
    for layer in layers:
        loaders[f"{layer}.weight"] = partial(merge_layer, tensors, layer, alpha)
    return LazyTensors(loaders)


def refuse_unmergeable(names: Iterable[str]) -> None:
    """Raise CheckpointError for adapters that cannot be merged into the weights."""
    methods = methods_in(names)
    if PTUNING in methods:
        raise CheckpointError(
            f"P-tuning ({methods[PTUNING][0]} and others) cannot be merged: its prefixes are keys and values in the "
            "attention of every layer, which the weights of the base model cannot express. "
            "Load it with the model class that it was trained with, or store the prefixes next to the weights by "
            "`python -m finetune.merge RUN --out DIR --to hf`."
        )
    if QLORA in methods:
        raise CheckpointError(
            f"QLoRA's 4-bit weights ({methods[QLORA][0]} and others) have the format of bitsandbytes, which is not "
            "supported. Merge them with the program that trained them."
        )


def is_factor(name: str) -> bool:
    """Return whether `name` is one of the LoRA matrices A and B."""
    return ".matrix_A." in name or ".matrix_B." in name


def merge_layer(tensors: Tensors, layer: str, alpha: float) -> torch.Tensor:
    """Return the merged weight [out, in] of one LoRA layer, in the dtype of the original weight.

    Raises:
        CheckpointError: the shapes of the tensors do not fit together.
    """
    lora_a, lora_b = read_factors(tensors, layer)
    with translate_shape_errors(layer):
        return merge_weight(tensors[layer + ORIGINAL], lora_a, lora_b, alpha / max(1, len(lora_a[0])))


def read_factors(tensors: Tensors, layer: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the matrices A_i [r, in] and B_i [out / n, r] of one LoRA layer.

    Raises:
        CheckpointError: a matrix is missing.
    """
    lora_a: list[torch.Tensor] = []
    lora_b: list[torch.Tensor] = []
    while f"{layer}.matrix_A.{len(lora_a)}" in tensors:
        with translate_shape_errors(layer):
            lora_b.append(tensors[f"{layer}.matrix_B.{len(lora_a)}"])
        lora_a.append(tensors[f"{layer}.matrix_A.{len(lora_a)}"])
    return lora_a, lora_b


def merge_weight(
    weight: torch.Tensor, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor], scaling: float
) -> torch.Tensor:
    """Return weight + scaling * cat(B_i A_i) [out, in] in the dtype of the weight, computed in float32."""
    partitions = [b.float() @ a.float() * scaling for a, b in zip(lora_a, lora_b, strict=True)]
    return (weight.float() + torch.cat(partitions)).to(weight.dtype)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the adapter entries from a model_config.json."""
    kept = {key: value for key, value in config.items() if key not in METHOD_SETTINGS}
    return {**kept, "model_class": "VisualGLMModel"}


def to_prefix_table(tensors: Tensors, config: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Convert the P-tuning prefixes of a SAT model to the embedding table of the Hugging Face format.

    Returns:
        The tensors and the configuration; unchanged if there is no P-tuning.
    """
    found = {name: match for name in tensors if (match := SAT_PREFIX_NAME.match(name))}
    names = sorted(found, key=lambda name: int(found[name][1]))
    if not names:
        return tensors, dict(config)
    loaders = {name: load for name, load in loaders_of(tensors).items() if name not in found}
    loaders[PREFIX_TABLE] = partial(build_prefix_table, tensors, names)
    with translate_shape_errors(names[0]):
        length = tensors[names[0]].shape[2]
    return LazyTensors(loaders), {**config, "use_ptuning": True, "pre_seq_len": length}


def build_prefix_table(tensors: Tensors, names: list[str]) -> torch.Tensor:
    """Return the embedding table [P, layers * 2 * D] of the prefixes called `names`, which are in layer order.

    Raises:
        CheckpointError: the shapes of the tensors do not fit together.
    """
    with translate_shape_errors(PREFIX_TABLE):
        prefixes = torch.stack([tensors[name] for name in names])  # [layers, 2, H, P, head_dim]
        return prefixes.permute(3, 0, 1, 2, 4).flatten(1)


def from_prefix_table(tensors: Tensors, config: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Convert the P-tuning embedding table of a Hugging Face model to SAT's prefixes.

    Returns:
        The tensors and the SAT configuration; unchanged if there is no P-tuning.
    """
    if PREFIX_TABLE not in tensors:
        return tensors, dict(config)
    loaders = {name: load for name, load in loaders_of(tensors).items() if name != PREFIX_TABLE}
    layers, heads = config["num_layers"], config["num_attention_heads"]
    for number in range(layers):
        loaders[f"mixins.ptuning.prefix.{number}"] = partial(read_layer_prefix, tensors, number, layers, heads)
    return LazyTensors(loaders), {**config, "use_ptuning": True, "pre_seq_len": tensors[PREFIX_TABLE].shape[0]}


def read_layer_prefix(tensors: Tensors, number: int, layers: int, heads: int) -> torch.Tensor:
    """Return the prefix [2, H, P, head_dim] of a layer from the embedding table.

    Raises:
        CheckpointError: the table's width does not fit the layers and heads.
    """
    table = tensors[PREFIX_TABLE]
    with translate_shape_errors(PREFIX_TABLE):
        return table.view(len(table), layers, 2, heads, -1)[:, number].permute(1, 2, 0, 3).contiguous()


def overlay_adapter(base: Tensors, trained: Tensors, layout: str, heads: int) -> Tensors:
    """Return the tensors of `base`, overlaid by an adapter-only checkpoint.

    Args:
        base: the base model, rows in the split order.
        trained: the saved tensors, rows in the order `layout`; the result's rows have this order, too.
        heads: number of attention heads.
    """
    loaders = {}
    for name, load in loaders_of(base).items():
        if layout == INTERLEAVED and is_language_qkv(name):
            load = partial(interleave_tensor, base, name, heads)
        loaders[wrapped_name(name, trained)] = load
    return LazyTensors({**loaders, **loaders_of(trained)})


def wrapped_name(name: str, trained: Tensors) -> str:
    """Return the name of a base model's tensor once LoRA in `trained` wraps its layer."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.original.{kind}" if layer + FIRST_A in trained else name


def interleave_tensor(tensors: Tensors, name: str, heads: int) -> torch.Tensor:
    """Convert the rows of the tensor called `name` from the split to the interleaved order.

    Raises:
        CheckpointError: the number of rows does not fit the heads.
    """
    with translate_shape_errors(name):
        return interleave_qkv(tensors[name], heads)


def check_base_name(name: Any, runs: Sequence[Path], entry: str = BASE_KEY) -> None:
    """Raise CheckpointError for a base model without a name, or a chain of base models that is cyclic or too long.

    Args:
        name: the base model of the last of `runs`; a nonempty string or path.
        runs: directories of a fine-tune, its base model, the base model's base model, and so on.
        entry: entry of the last one's configuration that should name its base model.
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise CheckpointError(
            f"{runs[-1]}: {entry} is {reprlib.repr(name)}; it should be the name or the directory of a model. Correct "
            "it, or give the base model by --base or base=."
        )
    paths = [os.path.realpath(run) for run in runs]
    if len(set(paths)) < len(paths) or len(paths) > MAX_BASES:
        raise CheckpointError(
            f"The chain of base models of {runs[0]} is cyclic or has more than {MAX_BASES} models. "
            f"Correct {entry} in its configuration, or give the base by --base or base=."
        )


def check_base(
    config: Mapping[str, Any], base_config: Mapping[str, Any], location: object, base_location: object
) -> None:
    """Raise CheckpointError if the sizes in a fine-tune's configuration differ from its base model's."""
    for key in BASE_SIZE_KEYS:
        if config[key] != base_config[key]:
            raise CheckpointError(
                f"{base_location} is not the base of {location}: its {key} is {base_config[key]}, the fine-tune's "
                f"{config[key]}. Give the model that the fine-tune was trained from."
            )
