"""Validate the sizes in a configuration before loops run and memory is allocated for them."""

import reprlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

from ..engine.config import is_integer
from ..errors import CheckpointError

MAX_RANKS = 256  # files of a model-parallel model
# Upper limits: far beyond any published model, and small enough to build the network on the meta device.
MAX_SIZES = {
    "num_layers": 1024,
    "hidden_size": 2**16,
    "num_attention_heads": 2**10,
    "vocab_size": 2**22,
    "model_parallel_size": MAX_RANKS,
}
# Minimum and maximum of optional sizes.
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
# Sizes that may be null: SAT writes null for defaults, also for sizes that the complete model does not use.
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
# With more parameters in the language model, float32 exceeds the memory of most machines.
LARGE_PARAMETERS = 4_000_000_000


def check_sizes(config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError if the entries of a SAT model_config.json, read from `file`, are impossible sizes."""
    for name, keys in SUBMODEL_KEYS.items():
        if not isinstance(config[name], Mapping):
            raise CheckpointError(
                f"{file}: {name} should contain sizes by name, not {reprlib.repr(config[name])}. Get the file again."
            )
        absent = [key for key in keys if key not in config[name]]
        if absent:
            raise CheckpointError(f"{file}: {name} lacks {', '.join(absent)}. Get the file again.")
    for title, sizes in (("", config), *((f"{name}: ", config[name]) for name in SUBMODEL_KEYS)):
        check_submodel(sizes, f"{file}: {title}", NULLABLE if title else NULLABLE | UNUSED)
    check_image(config["eva_args"], f"{file}: eva_args: ")
    check_queries(config, f"{file}: qformer_args: ")


def check_submodel(sizes: Mapping[str, Any], location: str, nullable: Set[str]) -> None:
    """Raise CheckpointError if the entries of one transformer are impossible sizes; `location` begins the message."""
    for key in MAX_SIZES:
        check_count(sizes, key, location)
    for key, (least, most) in OPTIONAL_RANGES.items():
        value = sizes.get(key)
        if key not in sizes or (value is None and key in nullable):
            continue
        if not is_integer(value, least, most):
            raise size_error(location, key, value, f"be a number from {least} to {most}")
    for key in FLOAT_KEYS:
        value = sizes.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**16:
            raise size_error(location, key, value, "be a positive number")
    hidden, heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    if hidden and heads and hidden % heads:
        raise CheckpointError(
            f"{location}hidden_size is {hidden}, which num_attention_heads, {heads}, does not divide. "
            "Get the file again."
        )


def check_image(sizes: Mapping[str, Any], location: str) -> None:
    """Raise CheckpointError if image size and patch size do not match the number of positions."""
    sides, patch, positions = sizes["image_size"], sizes["patch_size"], sizes.get("max_sequence_length")
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(is_image_side(side) for side in sides):
        raise size_error(location, "image_size", sides, f"be two numbers from 1 to {MAX_IMAGE_SIDE}")
    if positions is not None:
        expected = (sides[0] // patch) * (sides[1] // patch) + sizes.get("pre_len", 0) + sizes.get("post_len", 0)
        if expected != positions:
            raise CheckpointError(
                f"{location}max_sequence_length is {positions}, but the patches of an image need {expected} positions. "
                "Get the file again."
            )


def check_queries(config: Mapping[str, Any], location: str) -> None:
    """Raise CheckpointError if the number of Q-Former queries differs from the number of image embeddings."""
    sizes = config["qformer_args"]
    layers, flags, query_count = sizes["num_layers"], sizes["is_decoder"], sizes["vocab_size"]
    if not isinstance(flags, list) or len(flags) != layers or not {*map(type, flags)} <= {bool}:
        raise size_error(location, "is_decoder", flags, f"contain true or false for each of {layers} layers")
    if query_count != config.get("image_length", query_count):
        raise CheckpointError(
            f"{location}vocab_size is {query_count}, but image_length is {config['image_length']}. Get the file again."
        )


def is_image_side(value: object) -> bool:
    """Return whether `value` is a valid side of an image in pixels."""
    return is_integer(value, 1, MAX_IMAGE_SIDE)


def size_error(location: object, key: str, value: object, expected: str) -> CheckpointError:
    """Return the error for an impossible value of `key`, which should do what `expected` says."""
    return CheckpointError(f"{location}{key} is {reprlib.repr(value)}; it should {expected}. Get the file again.")


def check_count(config: Mapping[str, Any], key: str, location: object) -> int | None:
    """Return the positive number under `key`, None if absent; raise CheckpointError for any other value."""
    value = config.get(key)
    if key in config and not is_integer(value, 1, MAX_SIZES[key]):
        raise size_error(location, key, value, f"be a number from 1 to {MAX_SIZES[key]}")
    return value


def estimate_weights(sizes: Mapping[str, Any]) -> int:
    """Return a lower bound on the number of weights of a transformer with these sizes; 0 if sizes are missing."""
    layers, hidden = sizes.get("num_layers") or 0, sizes.get("hidden_size") or 0
    inner = sizes.get("inner_hidden_size") or 4 * hidden
    layer = 4 * hidden**2 + 2 * hidden * inner + 2 * hidden * (sizes.get("pre_seq_len") or 0)
    return int(layers * layer + (sizes.get("vocab_size") or 0) * hidden)


def check_file_sizes(config: Mapping[str, Any], file_bytes: int, location: object, advice: str) -> None:
    """Raise CheckpointError if files of `file_bytes` bytes are far too small for the model that `config` describes."""
    weights = estimate_weights(config) + sum(estimate_weights(config[name]) for name in SUBMODEL_KEYS)
    if weights > WEIGHTS_PER_BYTE * file_bytes:
        raise CheckpointError(
            f"{location}: the configuration describes a model of more than {weights:,} weights, but the files have "
            f"{file_bytes:,} bytes. The weights and the configuration belong to different models. {advice}"
        )


def count_parameters(config: Mapping[str, int]) -> int:
    """Estimate the number of parameters of a language model from its configuration."""
    hidden, layers = config["hidden_size"], config["num_layers"]
    return 12 * layers * hidden**2 + 2 * config["vocab_size"] * hidden


def choose_cpu_dtype(parameters: int) -> torch.dtype:
    """Return the dtype for a language model of that size on a CPU: float32, or bfloat16 if it is large."""
    return torch.bfloat16 if parameters > LARGE_PARAMETERS else torch.float32
