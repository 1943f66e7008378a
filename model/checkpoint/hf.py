"""Reading the Hugging Face format: config.json, tensors in safetensors or .bin shards, names as published."""

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..quantization.dequantize import read_bits
from ..tensors import LazyTensors, TensorLoader, Tensors, loaders_of
from .files import describe_damage, open_tensors, read_json
from .layout import to_sat_name
from .sizes import check_sizes

CONFIG_NAME = "config.json"
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
PAD_TOKEN_ID = 3
SHARED_KEYS = (
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
# Entries of both formats' configurations that a model may lack.
OPTIONAL_KEYS = ("prompt_language", "description")


def read_config(path: Path) -> tuple[dict[str, Any], int]:
    """Read config.json in directory `path`.

    Returns:
        The entries of a SAT model_config.json, and the bits of quantised weights, 0 for weights that are not.
    """
    config = read_json(path / CONFIG_NAME)
    if config.get("pad_token_id") is None:  # which programs that save a configuration may drop
        config = {**config, "pad_token_id": PAD_TOKEN_ID}
    absent = [key for key in (*SHARED_KEYS, "eva_config", "qformer_config") if config.get(key) is None]
    if absent:
        raise CheckpointError(
            f"{path / CONFIG_NAME} is not a VisualGLM configuration: it lacks {', '.join(absent)}. "
            f"It describes {reprlib.repr(config.get('model_type', 'an unnamed model'))}. "
            "Give the directory of a VisualGLM model."
        )
    entries = {
        **{key: config[key] for key in SHARED_KEYS},
        **optional_entries(config),
        "model_class": "VisualGLMModel",
        "tokenizer_type": str(path),
        "layernorm_order": "post",
        "model_parallel_size": 1,
        "eva_args": config["eva_config"],
        "qformer_args": config["qformer_config"],
    }
    check_sizes({**entries, "pre_seq_len": config.get("pre_seq_len")}, path / CONFIG_NAME)
    return entries, read_bits(config, path / CONFIG_NAME)


def optional_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optional entries that a configuration has."""
    return {key: config[key] for key in OPTIONAL_KEYS if config.get(key) is not None}


def weight_files(path: Path) -> list[Path]:
    """List the files that hold the tensors, as the index says, or the single file."""
    for name in INDEX_NAMES:
        if (path / name).is_file():
            return [require_file(path / shard) for shard in shard_names(path / name)]
    for name in SINGLE_NAMES:
        if (path / name).is_file():
            return [path / name]
    for name in INDEX_NAMES + SINGLE_NAMES:
        if (path / name).is_symlink():
            raise CheckpointError(f"{path / name} {describe_damage(path / name)}")
    shards = sorted(file.name for file in path.glob("*-of-*") if file.suffix in (".safetensors", ".bin"))
    if shards:
        raise CheckpointError(
            f"{path} has the weight file {shards[0]}, one of several, but not the index of them all, "
            f"{' or '.join(INDEX_NAMES)}. Copy or download it there."
        )
    raise CheckpointError(
        f"{path} has a {CONFIG_NAME} but no weights: none of {', '.join(SINGLE_NAMES + INDEX_NAMES)} is there. "
        "Copy or download the weight files into it."
    )


def shard_names(index: Path) -> list[str]:
    """List the files that an index names."""
    return sorted(set(read_index(index).values()))


def read_index(index: Path) -> dict[str, str]:
    """Return the name of the file that holds each tensor."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor. Get it again.")
    for file in weight_map.values():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise CheckpointError(
                f"{index} should name weight files beside it; it names {reprlib.repr(file)}. Get it again."
            )
    return weight_map


def check_index(path: Path, tensors: Iterable[str]) -> None:
    """Raise CheckpointError if none of the files in `path` holds a tensor that their index promises."""
    index = next((path / name for name in INDEX_NAMES if (path / name).is_file()), None)
    held = set(tensors)
    promised = read_index(index) if index is not None else {}
    absent = {name: file for name, file in promised.items() if name not in held}
    for name, file in absent.items():
        raise CheckpointError(
            f"By its index {path / file} holds {name}; neither it nor another file does, and {len(absent) - 1} more "
            "tensors are absent. The files belong to different models or downloads. Get them again."
        )


def require_file(path: Path) -> Path:
    """Return `path` if the file is there."""
    if not path.is_file():
        if path.is_symlink():
            raise CheckpointError(f"{path} {describe_damage(path)}")
        raise CheckpointError(f"The index names {path.name}, which is missing from {path.parent}. Get that shard.")
    return path


def open_files(files: list[Path]) -> Tensors:
    """Open weight files; return their tensors by their own names.

    Raises:
        CheckpointError: one is damaged, or they lack what their index promises.
    """
    loaders: dict[str, TensorLoader] = {}
    for file in files:
        loaders.update(loaders_of(open_tensors(file)))
    check_index(files[0].parent, loaders)
    return LazyTensors(loaders)


def to_sat_names(tensors: Tensors) -> Tensors:
    """Return those of `tensors` that SAT knows, by SAT's names."""
    named = {to_sat_name(name): load for name, load in loaders_of(tensors).items()}
    return LazyTensors({name: load for name, load in named.items() if name is not None})
