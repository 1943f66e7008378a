"""LoRA as SAT keeps it, and as PEFT does for the Hugging Face network: each from the other, to the same logits.

SAT has matrices A_i, B_i of rank r for each of a layer's n parts, rows of query_key_value split. PEFT has one A and one
B for the layer, rows interleaved by head. So n parts become rank n * r, with all A_i below one another and the B_i on
the diagonal; the other way, every part gets the whole A and its rows of B.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import Checkpoint
from model.checkpoint.adapters import FIRST_A
from model.checkpoint.files import open_tensors, read_json, write_tensors
from model.checkpoint.layout import interleave_qkv, is_language_qkv, split_qkv, to_hf_name, to_sat_name
from model.errors import CheckpointError
from model.sat.lora import PARTITIONS
from model.tensors import Tensors

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
PREFIX = "base_model.model."
MERGE_WITH_PEFT = (
    "Merge the adapter with PEFT (merge_and_unload, save_pretrained), and convert the whole model: "
    "python -m model.checkpoint.convert"
)
# Ways to initialize LoRA that also change the base model's weights, which the adapter's files do not hold.
CHANGING_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
LoraFactors = tuple[list[torch.Tensor], list[torch.Tensor]]  # A_i [r, in] and B_i [out / n, r] of its parts


def lora_layers(tensors: Tensors) -> dict[str, LoraFactors]:
    """Return the matrices of each LoRA layer of a SAT fine-tune, by the layer's name."""
    layers: dict[str, LoraFactors] = {}
    for name in tensors:
        if name.endswith(FIRST_A):
            layer = name.removesuffix(FIRST_A)
            count = sum(f"{layer}.matrix_A.{part}" in tensors for part in range(3))
            layers[layer] = (
                [tensors[f"{layer}.matrix_A.{part}"].float() for part in range(count)],
                [tensors[f"{layer}.matrix_B.{part}"].float() for part in range(count)],
            )
    return layers


def write_peft(folder: Path, tensors: Tensors, config: Mapping[str, Any], base: str) -> None:
    """Write the LoRA of a SAT fine-tune as a PEFT adapter into a directory.

    Args:
        tensors: of the fine-tune, rows in the split order.
        config: its model_config.json.
        base: name of the model that the adapter belongs to, in the Hugging Face format.

    Raises:
        CheckpointError: there is no LoRA in it.
    """
    layers = lora_layers(tensors)
    if not layers:
        raise CheckpointError("The run has no LoRA that PEFT could take over: only LoRA and QLoRA runs have.")
    alpha, heads = float(config.get("lora_alpha") or 1), config["num_attention_heads"]
    written, ranks, alphas = {}, {}, {}
    for layer, (lora_a, lora_b) in layers.items():
        name = to_hf_name(f"{layer}.weight").removesuffix(".weight")
        lora_b = torch.block_diag(*lora_b)  # [out, n * r]
        rows = interleave_qkv(lora_b, heads) if is_language_qkv(f"{layer}.weight") else lora_b
        written[f"{PREFIX}{name}.lora_A.weight"] = torch.cat(lora_a)
        written[f"{PREFIX}{name}.lora_B.weight"] = rows.contiguous()
        ranks[name] = len(lora_a) * len(lora_a[0])
        alphas[name] = alpha * len(lora_a)  # PEFT divides it by the rank
    save_adapter(folder, written, peft_config(ranks, alphas, config, base))


def peft_config(
    ranks: dict[str, int], alphas: dict[str, float], config: Mapping[str, Any], base: str
) -> dict[str, Any]:
    """Return the entries of adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        # As a list, PEFT would take these for the ends of names, which the picture's layers share with the model's.
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


def read_peft(folder: Path, base: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a PEFT adapter.

    Args:
        folder: its directory.
        base: the model that the adapter belongs to.

    Returns:
        LoRA's matrices by SAT's names, and the entries of model_config.json that describe them. All layers get one
        rank, the largest there is, and a scale of 1.

    Raises:
        CheckpointError: it is no LoRA adapter, or adapts layers that SAT's LoRA does not.
    """
    config = read_json(folder / CONFIG_NAME)
    check_adapter(config, folder)
    stored = open_tensors(folder / WEIGHTS_NAME)
    names = [name.removesuffix(LORA_A) for name in stored if name.endswith(LORA_A)]
    check_tensors(stored, names, base.split_qkv(), folder)
    heads = base.config["num_attention_heads"]
    layers = {name: sat_layer(name, folder) for name in names}
    rank = max(len(stored[name + LORA_A]) for name in names)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        lora_a, lora_b = stored[name + LORA_A].float(), stored[name + LORA_B].float()
        lora_b = lora_b * lora_scale(name.removeprefix(PREFIX), len(lora_a), config)
        rows = split_qkv(lora_b, heads) if is_language_qkv(f"{layer}.weight") else lora_b
        padding = rank - len(lora_a)
        for part, share in enumerate(rows.chunk(PARTITIONS[layer.rpartition(".")[2]])):
            tensors[f"{layer}.matrix_A.{part}"] = torch.nn.functional.pad(lora_a, (0, 0, 0, padding))
            tensors[f"{layer}.matrix_B.{part}"] = torch.nn.functional.pad(share, (0, padding))
    return tensors, sat_settings(layers.values(), rank)


def check_adapter(config: Mapping[str, Any], folder: Path) -> None:
    """Raise CheckpointError for an adapter that is more than LoRA on linear layers."""
    more = [name for name in ("use_dora", "modules_to_save", "bias_pattern") if config.get(name)]
    more += ["bias"] if config.get("bias", "none") != "none" else []
    start = str(config.get("init_lora_weights", True))
    more += [f"init_lora_weights={start}"] if start.lower().startswith(CHANGING_BASE) else []
    if config.get("peft_type") != "LORA" or more:
        what = f"LoRA with {', '.join(more)}" if more else f"of type {config.get('peft_type')!r}"
        raise CheckpointError(f"The adapter in {folder} is {what}; only plain LoRA can be converted. {MERGE_WITH_PEFT}")


def check_tensors(stored: Tensors, names: Sequence[str], base: Tensors, folder: Path) -> None:
    """Raise CheckpointError where an adapter's tensors are not A and B of the layers `names` and nothing else."""
    expected = {name + end for name in names for end in (LORA_A, LORA_B)}
    other = [name for name in sorted({*stored} ^ expected) if not is_base_weight(name, stored, base)]
    if other or not names:
        what = f"{'holds' if other[0] in stored else 'lacks'} {other[0]}" if other else "holds no tensors"
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} {what}. Only LoRA on linear layers can be converted, with {LORA_A[1:]} and "
            f"{LORA_B[1:]} for each. {MERGE_WITH_PEFT}"
        )


def is_base_weight(name: str, stored: Tensors, base: Tensors) -> bool:
    """Whether a tensor repeats a weight of the base: PEFT also saves the weight of a head or embedding it adapts."""
    plain = to_sat_name(name.removeprefix(PREFIX).replace(".base_layer.", "."))
    if plain is None or name not in stored or plain not in base:
        return False
    return torch.equal(stored[name], base[plain].to(stored[name].dtype))


def lora_scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return what PEFT multiplies a layer's product with."""
    alphas = config.get("alpha_pattern") or {}
    matching = [value for key, value in alphas.items() if re.fullmatch(rf"(.*\.)?({key})", name)]  # as PEFT does
    alpha = float(matching[0] if matching else config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def sat_layer(name: str, folder: Path) -> str:
    """Return SAT's name of a layer that PEFT adapts."""
    sat_name = to_sat_name(f"{name.removeprefix(PREFIX)}.weight") or ""
    layer = sat_name.removesuffix(".weight")
    if layer.rpartition(".")[2] not in PARTITIONS:
        raise CheckpointError(
            f"The adapter in {folder} adapts {name.removeprefix(PREFIX)}, which SAT's LoRA cannot. It adapts "
            f"{', '.join(PARTITIONS)}. {MERGE_WITH_PEFT}"
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
