"""Reading the Hugging Face format: config.json, tensors in safetensors or .bin shards, names as published."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .qkv import split_qkv

CONFIG_NAME = "config.json"
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
# HF name -> SAT name where they differ by more than a prefix.
RENAMED = {"lm_head.weight": "mixins.chatglm-final.lm_head.weight"}
IMAGE_PREFIX, SAT_IMAGE_PREFIX = "image_encoder.", "mixins.eva.model."
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say what is wrong with the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object, not {type(value).__name__}.")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """Read config.json in directory `path` as the entries of a SAT model_config.json."""
    config = read_json(path / CONFIG_NAME)
    absent = [key for key in (*SAME_KEYS, "eva_config", "qformer_config") if key not in config]
    if absent:
        raise CheckpointError(
            f"{path / CONFIG_NAME} is not a VisualGLM configuration: it lacks {', '.join(absent)}. "
            f"It describes {config.get('model_type', 'an unnamed model')!r}."
        )
    return {
        **{key: config[key] for key in SAME_KEYS},
        "model_class": "VisualGLMModel",
        "tokenizer_type": str(path),
        "layernorm_order": "post",
        "model_parallel_size": 1,
        "eva_args": config["eva_config"],
        "qformer_args": config["qformer_config"],
    }


def weight_files(path: Path) -> list[Path]:
    """List the files that hold the tensors, as the index says, or the single file."""
    for name in INDEX_NAMES:
        if (path / name).is_file():
            shards = sorted(set(read_json(path / name).get("weight_map", {}).values()))
            return [existing(path / shard) for shard in shards]
    for name in SINGLE_NAMES:
        if (path / name).is_file():
            return [path / name]
    raise CheckpointError(
        f"{path} has a {CONFIG_NAME} but no weights: none of {', '.join(SINGLE_NAMES + INDEX_NAMES)} is there. "
        "Copy or download the weight files into it."
    )


def existing(path: Path) -> Path:
    """Return `path` if the file is there."""
    if not path.is_file():
        raise CheckpointError(f"The index names {path.name}, which is missing from {path.parent}. Get that shard.")
    return path


@contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Turn what reading a weight file raises into an error for a person."""
    try:
        yield
    except Exception as error:  # pickle, zip and safetensors each raise their own
        raise CheckpointError(f"{path} cannot be read as weights ({error}). Copy or download it again.") from error


def load_pickled(path: Path) -> dict[str, Any]:
    """Map a file of torch.save into memory; its tensors are read when they are used, and nothing is executed."""
    with damage_explained(path):
        return dict(torch.load(path, map_location="cpu", mmap=True, weights_only=True))


def list_names(path: Path) -> list[str]:
    """List the tensors in a weight file without reading them."""
    if path.suffix != ".safetensors":
        return list(load_pickled(path))
    from safetensors import safe_open

    with damage_explained(path), safe_open(path, framework="pt") as file:
        return list(file.keys())


def read_file(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) of a weight file, one tensor at a time."""
    if path.suffix != ".safetensors":
        yield from load_pickled(path).items()
        return
    from safetensors import safe_open

    with damage_explained(path), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is no dictionary)
            yield name, file.get_tensor(name)


def count_tensors(files: list[Path]) -> int:
    """Count the tensors in `files` that SAT knows, without reading them."""
    return sum(to_sat_name(name) is not None for file in files for name in list_names(file))


def read_tensors(files: list[Path], config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (SAT name, tensor) of every tensor that SAT knows, in SAT's row order."""
    for file in files:
        for name, tensor in read_file(file):
            sat_name = to_sat_name(name)
            if sat_name is None:
                continue
            if is_language_qkv(name):
                tensor = split_qkv(tensor, config["num_attention_heads"])
            yield sat_name, tensor


def to_sat_name(name: str) -> str | None:
    """Return the SAT name of an HF tensor, None for one that is computed instead of loaded."""
    if name.endswith("rotary_emb.inv_freq"):
        return None
    if name.startswith(IMAGE_PREFIX):
        return SAT_IMAGE_PREFIX + name.removeprefix(IMAGE_PREFIX)
    return RENAMED.get(name, name)


def is_language_qkv(name: str) -> bool:
    """Whether `name` is a query-key-value tensor of the language model, whose rows HF orders by head."""
    return name.startswith("transformer.layers.") and ".attention.query_key_value." in name
