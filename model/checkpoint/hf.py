"""Reading the Hugging Face format: config.json, tensors in safetensors or .bin shards, names as published."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import open_tensors, read_json
from .lazy import LazyTensors, Maker, Tensors
from .names import to_sat_name
from .quantized import dequantize_tensors

CONFIG_NAME = "config.json"
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
SAME_KEYS = (
    "num_layers",
    "hidden_size",
    "inner_hidden_size",
    "num_attention_heads",
    "vocab_size",
    "max_sequence_length",
    "layernorm_epsilon",
    "image_length",
    "bos_token_id",
    "mask_token_id",
    "gmask_token_id",
    "pad_token_id",
)


def read_config(path: Path) -> tuple[dict[str, Any], int]:
    """Read config.json in directory `path`.

    Returns:
        The entries of a SAT model_config.json, and the bits of quantised weights, 0 for weights that are not.
    """
    config = read_json(path / CONFIG_NAME)
    absent = [key for key in (*SAME_KEYS, "eva_config", "qformer_config") if config.get(key) is None]
    if absent:
        raise CheckpointError(
            f"{path / CONFIG_NAME} is not a VisualGLM configuration: it lacks {', '.join(absent)}. "
            f"It describes {config.get('model_type', 'an unnamed model')!r}."
        )
    entries = {
        **{key: config[key] for key in SAME_KEYS},
        "model_class": "VisualGLMModel",
        "tokenizer_type": str(path),
        "layernorm_order": "post",
        "model_parallel_size": 1,
        "eva_args": config["eva_config"],
        "qformer_args": config["qformer_config"],
    }
    return entries, int(config.get("quantization_bit") or 0)


def weight_files(path: Path) -> list[Path]:
    """List the files that hold the tensors, as the index says, or the single file."""
    for name in INDEX_NAMES:
        if (path / name).is_file():
            return [existing(path / shard) for shard in shard_names(path / name)]
    for name in SINGLE_NAMES:
        if (path / name).is_file():
            return [path / name]
    raise CheckpointError(
        f"{path} has a {CONFIG_NAME} but no weights: none of {', '.join(SINGLE_NAMES + INDEX_NAMES)} is there. "
        "Copy or download the weight files into it."
    )


def shard_names(index: Path) -> list[str]:
    """List the files that an index names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor. Get it again.")
    return sorted(set(weight_map.values()))


def existing(path: Path) -> Path:
    """Return `path` if the file is there."""
    if not path.is_file():
        raise CheckpointError(f"The index names {path.name}, which is missing from {path.parent}. Get that shard.")
    return path


def open_all(files: list[Path], bits: int) -> Tensors:
    """Open weight files; return the tensors that SAT knows, by SAT's names, quantised ones restored."""
    makers: dict[str, Maker] = {}
    for file in files:
        tensors = dequantize_tensors(open_tensors(file), bits)
        for name in tensors:
            sat_name = to_sat_name(name)
            if sat_name is not None:
                makers[sat_name] = partial(tensors.__getitem__, name)
    return LazyTensors(makers)
