"""Convert LoRA between the SAT network and PEFT's format for the Hugging Face network, with the same logits.

SAT has matrices A_i and B_i of rank r for each of the n partitions of a layer; the rows of query_key_value are in split
order. PEFT has one A and one B per layer; the rows are interleaved by head. So n partitions become one LoRA of rank
n * r, with the A_i concatenated and the B_i on the diagonal of a block matrix. In the other direction, every partition
gets the complete A and its rows of B.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..tensors import Tensors, translate_shape_errors
from .adapters import FIRST_A, PARTITIONS, read_factors
from .files import open_tensors, read_json, write_tensors
from .layout import interleave_qkv, is_language_qkv, split_qkv, to_hf_name, to_sat_name

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
FORMER_WEIGHTS_NAME = "adapter_model.bin"  # of PEFT before 0.7
BASE_KEY = "base_model_name_or_path"
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
PREFIX = "base_model.model."
MERGE_ADVICE = (
    "Merge it with PEFT (merge_and_unload, save_pretrained of model and tokenizer), and use the complete model."
)
# LoRA initializations that also change the base model's weights, which the adapter's files do not contain.
CHANGING_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
# Settings of PEFT under which a layer computes something other than W + B A.
OTHER_METHODS = (
    *("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("monteclora_config", "modules_to_save", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("lora_bias", "bias_pattern"),
)
LoraFactors = tuple[list[torch.Tensor], list[torch.Tensor]]  # A_i [r, in] and B_i [out / n, r] of a layer


def lora_layers(tensors: Tensors) -> dict[str, LoraFactors]:
    """Return the matrices of each LoRA layer of a SAT run, by the layer's name."""
    layers: dict[str, LoraFactors] = {}
    for layer in (name.removesuffix(FIRST_A) for name in tensors if name.endswith(FIRST_A)):
        lora_a, lora_b = read_factors(tensors, layer)
        layers[layer] = [a.float() for a in lora_a], [b.float() for b in lora_b]
    return layers


def write_peft(folder: Path, tensors: Tensors, config: Mapping[str, Any], base: str) -> None:
    """Write the LoRA of a SAT run as a PEFT adapter into a directory.

    Args:
        folder: the directory.
        tensors: tensors of the run, with the rows of query_key_value in split order.
        config: its model_config.json.
        base: name of the base model in the Hugging Face format.

    Raises:
        CheckpointError: the run has no LoRA.
    """
    layers = lora_layers(tensors)
    if not layers:
        raise CheckpointError("The run has no LoRA to convert for PEFT. Only LoRA and QLoRA runs have.")
    alpha, heads = float(config.get("lora_alpha") or 1), config["num_attention_heads"]
    written, ranks, alphas = {}, {}, {}
    for layer, (a_partitions, b_partitions) in layers.items():
        name = to_hf_name(f"{layer}.weight").removesuffix(".weight")
        lora_b = torch.block_diag(*b_partitions)  # [out, n * r]
        rows = interleave_qkv(lora_b, heads) if is_language_qkv(f"{layer}.weight") else lora_b
        written[f"{PREFIX}{name}.lora_A.weight"] = torch.cat(a_partitions)
        written[f"{PREFIX}{name}.lora_B.weight"] = rows.contiguous()
        ranks[name] = len(a_partitions) * len(a_partitions[0])
        alphas[name] = alpha * len(a_partitions)  # PEFT divides it by the rank
    save_adapter(folder, written, peft_config(ranks, alphas, config, base))


def peft_config(
    ranks: dict[str, int], alphas: dict[str, float], config: Mapping[str, Any], base: str
) -> dict[str, Any]:
    """Return the entries of adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        BASE_KEY: base,
        "inference_mode": True,
        # A regular expression for full names: PEFT compares a list with the ends of names, and some layers of the
        # image encoder have names that end like names of the language model.
        "target_modules": f"({'|'.join(map(re.escape, sorted(ranks)))})",
        "r": next(iter(ranks.values())),
        "lora_alpha": next(iter(alphas.values())),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "lora_dropout": float(config.get("lora_dropout") or 0),
        "bias": "none",
        "fan_in_fan_out": False,
    }


def save_adapter(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write a PEFT adapter's two files."""
    write_tensors(folder / WEIGHTS_NAME, tensors)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weights_file(folder: Path) -> Path:
    """Return the path of the weight file in the directory of an adapter."""
    names = (name for name in (WEIGHTS_NAME, FORMER_WEIGHTS_NAME) if (folder / name).is_file())
    return folder / next(names, WEIGHTS_NAME)


def read_peft(folder: Path, base: Tensors, heads: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a PEFT adapter.

    Args:
        folder: directory of the adapter.
        base: tensors of its base model, with the rows of query_key_value in split order.
        heads: number of attention heads.

    Returns:
        The LoRA matrices by their SAT names, and the entries of model_config.json that describe them. All layers get
        the same rank, which is the largest in the adapter, and a scale of 1.

    Raises:
        CheckpointError: the adapter is not plain LoRA, adapts layers that SAT's LoRA does not support, or layers that
            the base model lacks.
    """
    config = read_json(folder / CONFIG_NAME)
    check_adapter(config, folder)
    stored = open_tensors(weights_file(folder))
    names = [name.removesuffix(LORA_A) for name in stored if name.endswith(LORA_A)]
    check_tensors(stored, names, base, folder)
    layers = {name: sat_layer(name, folder) for name in names}
    absent = [name for name, layer in layers.items() if f"{layer}.weight" not in base]
    if absent:
        raise CheckpointError(
            f"The adapter in {folder} adapts {absent[0].removeprefix(PREFIX)}, which its base model lacks. Give the "
            "model that it was trained from by --base or base=."
        )
    rank = max(len(stored[name + LORA_A]) for name in names)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        lora_a, lora_b = stored[name + LORA_A].float(), stored[name + LORA_B].float()
        lora_b = lora_b * lora_scale(name.removeprefix(PREFIX), len(lora_a), config)
        with translate_shape_errors(name):
            rows = split_qkv(lora_b, heads) if is_language_qkv(f"{layer}.weight") else lora_b
            padding = rank - len(lora_a)
            for number, partition in enumerate(rows.chunk(PARTITIONS[layer.rpartition(".")[2]])):
                tensors[f"{layer}.matrix_A.{number}"] = torch.nn.functional.pad(lora_a, (0, 0, 0, padding))
                tensors[f"{layer}.matrix_B.{number}"] = torch.nn.functional.pad(partition, (0, padding))
    return tensors, sat_settings(layers.values(), rank)


def check_adapter(config: Mapping[str, Any], folder: Path) -> None:
    """Raise CheckpointError for an adapter that is not plain LoRA on linear layers."""
    unsupported = [] if config.get("peft_type") == "LORA" else [f"peft_type={config.get('peft_type')!r}"]
    unsupported += [name for name in OTHER_METHODS if config.get(name)]
    unsupported += ["bias"] if config.get("bias", "none") != "none" else []
    start = str(config.get("init_lora_weights", True))
    unsupported += [f"init_lora_weights={start}"] if start.lower().startswith(CHANGING_BASE) else []
    alphas = config.get("alpha_pattern") or {}
    scales = [config.get("lora_alpha"), *(alphas.values() if isinstance(alphas, dict) else [alphas])]
    if unsupported:
        raise CheckpointError(
            f"The adapter in {folder} uses {', '.join(unsupported)}; only plain LoRA is supported. {MERGE_ADVICE}"
        )
    if not all(isinstance(scale, int | float) for scale in scales):
        raise CheckpointError(
            f"{folder / CONFIG_NAME}: lora_alpha and the values of alpha_pattern should be numbers. Get the file again."
        )


def check_tensors(stored: Tensors, names: Sequence[str], base: Tensors, folder: Path) -> None:
    """Raise CheckpointError if an adapter's tensors are not exactly A and B of the layers `names`."""
    expected = {name + end for name in names for end in (LORA_A, LORA_B)}
    other = [name for name in sorted({*stored} ^ expected) if not is_base_weight(name, stored, base)]
    if other or not names:
        first = other[0] if other else LORA_A
        raise CheckpointError(
            f"{weights_file(folder)} should contain {LORA_A[1:]} and {LORA_B[1:]} of each adapted linear layer, and "
            f"nothing else; {first} is missing or unexpected. {MERGE_ADVICE}"
        )


def is_base_weight(name: str, stored: Tensors, base: Tensors) -> bool:
    """Return whether a tensor copies a base weight: PEFT also saves the weights of adapted heads and embeddings."""
    plain = to_sat_name(name.removeprefix(PREFIX).replace(".base_layer.", "."))
    if plain is None or name not in stored or plain not in base:
        return False
    return torch.equal(stored[name], base[plain].to(stored[name].dtype))


def lora_scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return PEFT's scale of a LoRA layer, which depends on alpha and rank."""
    alphas = config.get("alpha_pattern") or {}
    matching = [value for key, value in alphas.items() if re.fullmatch(rf"(.*\.)?({key})", name)]  # as PEFT does
    alpha = float(matching[0] if matching else config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def sat_layer(name: str, folder: Path) -> str:
    """Return the SAT name of a layer that PEFT adapts.

    Raises:
        CheckpointError: SAT's LoRA does not support the layer.
    """
    sat_name = to_sat_name(f"{name.removeprefix(PREFIX)}.weight") or ""
    layer = sat_name.removesuffix(".weight")
    if layer.rpartition(".")[2] not in PARTITIONS:
        raise CheckpointError(
            f"The adapter in {folder} adapts {name.removeprefix(PREFIX)}; only layers with these names are supported: "
            f"{', '.join(PARTITIONS)}. {MERGE_ADVICE}"
        )
    return layer


def sat_settings(layers: Iterable[str], rank: int) -> dict[str, Any]:
    """Return the entries of model_config.json for LoRA on exactly these layers."""
    return {
        "use_lora": True,
        "lora_rank": rank,
        "lora_alpha": float(rank),
        "layer_range": None,
        "lora_targets": sorted(layers),
    }
