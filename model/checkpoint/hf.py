"""Read checkpoints in the Hugging Face format: config.json, and tensors in safetensors or .bin shards."""

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
# Optional entries of the configurations of both formats.
OPTIONAL_KEYS = ("prompt_language", "description")


def read_config(path: Path) -> tuple[dict[str, Any], int]:
    """Read config.json in directory `path`.

    Returns:
        The entries of a SAT model_config.json, and the bits per quantized weight, 0 for unquantized weights.

    Raises:
        CheckpointError: it is not the configuration of a VisualGLM model, or has impossible sizes.
    """
    config = read_json(path / CONFIG_NAME)
    if config.get("pad_token_id") is None:  # some programs drop it when they save a configuration
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
    """Return the optional entries that are present in a configuration."""
    return {key: config[key] for key in OPTIONAL_KEYS if config.get(key) is not None}


def weight_files(path: Path) -> list[Path]:
    """List the weight files of a directory: the shards in its index, or the single file.

    Raises:
        CheckpointError: there are none, or the index or a shard is missing.
    """
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
            f"{path} has the shard {shards[0]}, but not the index of all shards, "
            f"{' or '.join(INDEX_NAMES)}. Copy or download it there."
        )
    raise CheckpointError(
        f"{path} has a {CONFIG_NAME} but no weights: none of {', '.join(SINGLE_NAMES + INDEX_NAMES)} exists. "
        "Copy or download the weight files into it."
    )


def shard_names(index: Path) -> list[str]:
    """List the shards that an index names."""
    return sorted(set(read_index(index).values()))


def read_index(index: Path) -> dict[str, str]:
    """Read an index: the file name of the shard of each tensor.

    Raises:
        CheckpointError: it has no valid weight_map, or names a file outside of its directory.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map, which maps tensors to files. Get it again.")
    for file in weight_map.values():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise CheckpointError(
                f"{index} should name weight files in its directory; it names {reprlib.repr(file)}. Get it again."
            )
    return weight_map


def check_index(path: Path, tensors: Iterable[str]) -> None:
    """Raise CheckpointError if a tensor in the index of `path` is missing from `tensors`, the names in its files."""
    index = next((path / name for name in INDEX_NAMES if (path / name).is_file()), None)
    present = set(tensors)
    promised = read_index(index) if index is not None else {}
    absent = {name: file for name, file in promised.items() if name not in present}
    for name, file in absent.items():
        raise CheckpointError(
            f"According to the index, {path / file} contains {name}, but no file does; {len(absent) - 1} more tensors "
            "are missing. The files belong to different models or downloads. Get them again."
        )


def require_file(path: Path) -> Path:
    """Return `path` if the file exists; otherwise raise CheckpointError."""
    if not path.is_file():
        if path.is_symlink():
            raise CheckpointError(f"{path} {describe_damage(path)}")
        raise CheckpointError(f"The index names {path.name}, which is missing from {path.parent}. Get that shard.")
    return path


def open_files(files: list[Path]) -> Tensors:
    """Open weight files; return their tensors by the names in the files.

    Raises:
        CheckpointError: a file is damaged, or a tensor of the index is missing.
    """
    loaders: dict[str, TensorLoader] = {}
    for file in files:
        loaders.update(loaders_of(open_tensors(file)))
    check_index(files[0].parent, loaders)
    return LazyTensors(loaders)


def to_sat_names(tensors: Tensors) -> Tensors:
    """Rename tensors from the Hugging Face format to SAT; drop tensors that SAT computes."""
    named = {to_sat_name(name): load for name, load in loaders_of(tensors).items()}
    return LazyTensors({name: load for name, load in named.items() if name is not None})
