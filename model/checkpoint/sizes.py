"""The sizes that a configuration gives, checked before a loop is run or memory is allocated for them."""

import reprlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

MAX_RANKS = 256  # files of a model-parallel model
# Largest value of each size: far beyond any published model, and small enough to build a network without data.
MAX_SIZES = {
    "num_layers": 1024,
    "hidden_size": 2**16,
    "num_attention_heads": 2**10,
    "vocab_size": 2**22,
    "model_parallel_size": MAX_RANKS,
}
# The least and the largest value of sizes that may be absent.
OPTIONAL_RANGES = {
    "inner_hidden_size": (1, 2**18),
    "max_sequence_length": (0, 2**22),
    "image_length": (1, 2**12),
    "pre_seq_len": (0, 2**12),
    "lora_rank": (0, 2**12),
    "cross_attn_hidden_size": (1, 2**16),
    "patch_size": (1, 2**10),
    "in_channels": (1, 2**6),
    "pre_len": (0, 2**12),
    "post_len": (0, 2**12),
    "bos_token_id": (0, 2**31),
    "eos_token_id": (0, 2**31),
    "mask_token_id": (0, 2**31),
    "gmask_token_id": (0, 2**31),
    "pad_token_id": (0, 2**31),
}
# Sizes that may be null: SAT writes its defaults so, of what a whole model has no use for, too.
NULLABLE = {"inner_hidden_size", "pre_seq_len", "lora_rank"}
UNUSED = {"cross_attn_hidden_size", "patch_size", "in_channels", "pre_len", "post_len", "eos_token_id", "pad_token_id"}
MAX_IMAGE_SIDE = 2**12
FLOAT_KEYS = ("layernorm_epsilon", "lora_alpha")
SUBMODEL_KEYS = {
    "eva_args": ("num_layers", "hidden_size", "num_attention_heads", "image_size", "patch_size", "in_channels"),
    "qformer_args": (
        "num_layers",
        "hidden_size",
        "num_attention_heads",
        "vocab_size",
        "is_decoder",
        "cross_attn_hidden_size",
    ),
}
WEIGHTS_PER_BYTE = 2  # in a file of 4-bit weights
# Beyond this many weights of the language model, float32 takes more memory than most machines have.
LARGE_PARAMETERS = 4_000_000_000


def check_sizes(config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError where the entries of a SAT model_config.json, read from `file`, can be no model's sizes."""
    for name, keys in SUBMODEL_KEYS.items():
        if not isinstance(config[name], Mapping):
            raise CheckpointError(
                f"{file}: {name} should hold sizes by name, not {reprlib.repr(config[name])}. Get the file again."
            )
        absent = [key for key in keys if key not in config[name]]
        if absent:
            raise CheckpointError(f"{file}: {name} lacks {', '.join(absent)}. Get the file again.")
    for title, part in (("", config), *((f"{name}: ", config[name]) for name in SUBMODEL_KEYS)):
        check_submodel(part, f"{file}: {title}", NULLABLE if title else NULLABLE | UNUSED)
    check_image(config["eva_args"], f"{file}: eva_args: ")
    check_queries(config, f"{file}: qformer_args: ")


def check_submodel(part: Mapping[str, Any], place: str, nullable: Set[str]) -> None:
    """Raise CheckpointError where the entries of one transformer can be no sizes; `place` begins the message."""
    for key in MAX_SIZES:
        check_count(part, key, place)
    for key, (least, most) in OPTIONAL_RANGES.items():
        value = part.get(key)
        if key not in part or (value is None and key in nullable):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise CheckpointError(
                f"{place}{key} is {reprlib.repr(value)}; it should be a number from {least} to {most}. "
                "Get the file again."
            )
    for key in FLOAT_KEYS:
        value = part.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**16:
            raise CheckpointError(
                f"{place}{key} is {reprlib.repr(value)}; it should be a positive number. Get the file again."
            )
    hidden, heads = part.get("hidden_size"), part.get("num_attention_heads")
    if hidden and heads and hidden % heads:
        raise CheckpointError(
            f"{place}hidden_size is {hidden}, which num_attention_heads, {heads}, does not divide. Get the file again."
        )


def check_image(part: Mapping[str, Any], place: str) -> None:
    """Raise CheckpointError if image size and patch size do not match the number of positions."""
    sides, patch, positions = part["image_size"], part["patch_size"], part.get("max_sequence_length")
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(is_image_side(side) for side in sides):
        raise CheckpointError(
            f"{place}image_size is {reprlib.repr(sides)}; it should be two numbers from 1 to {MAX_IMAGE_SIDE}. "
            "Get the file again."
        )
    if positions is not None:
        wanted = (sides[0] // patch) * (sides[1] // patch) + part.get("pre_len", 0) + part.get("post_len", 0)
        if wanted != positions:
            raise CheckpointError(
                f"{place}max_sequence_length is {positions}, but the patches of a picture take {wanted} positions. "
                "Get the file again."
            )


def check_queries(config: Mapping[str, Any], place: str) -> None:
    """Raise CheckpointError where the QFormer gives another number of vectors than stand for a picture."""
    part = config["qformer_args"]
    layers, decoding, vectors = part["num_layers"], part["is_decoder"], part["vocab_size"]
    if not isinstance(decoding, list) or len(decoding) != layers or not {*map(type, decoding)} <= {bool}:
        raise CheckpointError(
            f"{place}is_decoder is {reprlib.repr(decoding)}; it should hold true or false for each of {layers} layers. "
            "Get the file again."
        )
    if vectors != config.get("image_length", vectors):
        raise CheckpointError(
            f"{place}vocab_size is {vectors}, but image_length is {config['image_length']}. Get the file again."
        )


def is_image_side(value: object) -> bool:
    """Whether `value` is the side of a picture in pixels."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_IMAGE_SIDE


def check_count(config: Mapping[str, Any], key: str, place: object) -> int | None:
    """Return the positive number under `key`, None where there is none; raise CheckpointError for anything else."""
    value = config.get(key)
    if key in config and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIZES[key]):
        raise CheckpointError(
            f"{place}{key} is {reprlib.repr(value)}; it should be a number from 1 to {MAX_SIZES[key]}. "
            "Get the file again."
        )
    return value


def estimate_weights(part: Mapping[str, Any]) -> int:
    """Return about how many weights the transformer with these sizes has, at least; 0 where sizes are absent."""
    layers, hidden = part.get("num_layers") or 0, part.get("hidden_size") or 0
    inner = part.get("inner_hidden_size") or 4 * hidden
    layer = 4 * hidden**2 + 2 * hidden * inner + 2 * hidden * (part.get("pre_seq_len") or 0)
    return int(layers * layer + (part.get("vocab_size") or 0) * hidden)


def check_file_sizes(config: Mapping[str, Any], held: int, place: object, advice: str) -> None:
    """Raise CheckpointError where files of `held` bytes are far too small for the model that `config` describes."""
    wanted = estimate_weights(config) + sum(estimate_weights(config[name]) for name in SUBMODEL_KEYS)
    if wanted > WEIGHTS_PER_BYTE * held:
        raise CheckpointError(
            f"{place}: the configuration describes a model of more than {wanted:,} weights, but the files hold "
            f"{held:,} bytes. The weights and the configuration belong to different models. {advice}"
        )


def count_parameters(config: Mapping[str, int]) -> int:
    """Estimate the size of a language model from its configuration."""
    hidden, layers = config["hidden_size"], config["num_layers"]
    return 12 * layers * hidden**2 + 2 * config["vocab_size"] * hidden


def choose_cpu_dtype(parameters: int) -> torch.dtype:
    """Return the dtype in which a CPU answers best with a language model of that size."""
    return torch.bfloat16 if parameters > LARGE_PARAMETERS else torch.float32
