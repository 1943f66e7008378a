"""Find, read, join and shard checkpoints in the SAT format: model_config.json, `latest`, one file per rank.

A model is given by its run directory, by the directory of an iteration, or by a .pt file. Our own fine-tunes have
<iteration>/weights.safetensors instead, with the same tensor names.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..tensors import LazyTensors, Tensors, translate_shape_errors
from .adapters import method_of
from .files import check_tensor_storage, load_pickled, open_tensors, read_json
from .layout import INTERLEAVED, LAYOUTS, SPLIT, is_language_qkv
from .sizes import MAX_RANKS, check_sizes

CONFIG_NAME = "model_config.json"
LATEST_NAME = "latest"
WEIGHTS_NAME = "weights.safetensors"
RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
MAX_LISTED = 20  # iterations listed in a message
MAX_NAME_LENGTH = 256  # characters read from the file `latest`
REQUIRED_KEYS = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "max_sequence_length",
    "layernorm_order",
    "image_length",
    "bos_token_id",
    "mask_token_id",
    "gmask_token_id",
    "eva_args",
    "qformer_args",
)


def rank_files(folder: Path) -> dict[int, Path]:
    """Return the weight files of the model-parallel ranks in `folder`, by rank."""
    matches = ((RANK_FILE.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return {int(match[1]): path for match, path in matches if match}


def holds_weights(folder: Path) -> bool:
    """Return whether `folder` contains weights, as the directory of an iteration does."""
    return (folder / WEIGHTS_NAME).is_file() or bool(rank_files(folder))


def is_sat_checkpoint(path: Path) -> bool:
    """Return whether `path` is a run directory, the directory of an iteration, or a weight file."""
    if path.is_dir():
        return (path / CONFIG_NAME).is_file() or holds_weights(path)
    return (path.suffix == ".pt" or path.name == WEIGHTS_NAME) and path.is_file()


def find_directory(path: Path) -> Path:
    """Return the directory whose model_config.json describes the model at `path`.

    Raises:
        CheckpointError: there is none in the directory or its parent.
    """
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    for directory in (folder, folder.parent):
        if (directory / CONFIG_NAME).is_file():
            return path if directory == path.absolute() else directory
    raise CheckpointError(
        f"{path} contains weights, but neither {folder} nor {folder.parent} has a {CONFIG_NAME} that describes the "
        "model. SAT writes it into the run's directory; copy it next to the weights."
    )


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Read model_config.json in directory `path`; return its entries and the row order of the QKV tensors.

    Raises:
        CheckpointError: it is not the configuration of a VisualGLM model, or has impossible sizes.
    """
    file = path / CONFIG_NAME
    config = read_json(file)
    absent = [key for key in REQUIRED_KEYS if key not in config]
    if absent:
        raise CheckpointError(
            f"{file} is not a VisualGLM configuration: it lacks {', '.join(absent)}. "
            f"It describes {reprlib.repr(config.get('model_class', 'an unnamed model'))}. "
            "Give the directory of a VisualGLM model."
        )
    check_sizes(config, file)
    # Checkpoints of SAT < 0.4.1 have no pad_token_id, and their QKV rows are interleaved by head.
    layout = config.pop("qkv_layout", SPLIT if "pad_token_id" in config else INTERLEAVED)
    if layout not in LAYOUTS:
        raise CheckpointError(f"{file}: qkv_layout is {reprlib.repr(layout)}; it should be {' or '.join(LAYOUTS)}.")
    return {**config, "pad_token_id": 3 if config.get("pad_token_id") is None else config["pad_token_id"]}, layout


def weight_files(path: Path, config: dict[str, Any], iteration: int | None = None) -> list[Path]:
    """List the weight files of the model at `path`, one per model-parallel rank, in order.

    Args:
        path: a path for which `is_sat_checkpoint` is true.
        config: the entries of model_config.json.
        iteration: iteration of a run directory to read, instead of the one that `latest` names.

    Raises:
        CheckpointError: `latest`, its directory, or the file of a rank is missing.
    """
    if path.is_file() and not RANK_FILE.fullmatch(path.name):
        return [path]
    folder = path.parent if path.is_file() else path
    if iteration is not None or not holds_weights(folder):
        folder = iteration_folder(folder, iteration)
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    files = rank_files(folder)
    if files and max(files) >= MAX_RANKS:
        raise CheckpointError(
            f"The name of {files[max(files)]} implies more than {max(files)} weight files; at most {MAX_RANKS} are "
            "supported. Remove it, or get the files again."
        )
    size = max([1, int(config.get("model_parallel_size") or 1), *(rank + 1 for rank in files)])
    missing = [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(size) if rank not in files]
    if missing:
        raise CheckpointError(
            f"{folder} should contain the weights in {size} file{'s' * (size > 1)}; {', '.join(missing[:4])} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Copy the rest there."
        )
    return [files[rank] for rank in range(size)]


def iteration_folder(path: Path, iteration: int | None) -> Path:
    """Return the directory of one iteration of the run in `path`."""
    present = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and holds_weights(folder))
    advice = (
        f"The iterations are {', '.join(present[-MAX_LISTED:])}. Give one by its directory, {path / present[-1]}."
        if present
        else "It has no iteration with weights either. Copy the run's files again."
    )
    if iteration is None and not (path / LATEST_NAME).is_file():
        raise CheckpointError(f"{path} has no file called {LATEST_NAME} with the iteration to read, e.g. 1. {advice}")
    name = str(iteration) if iteration is not None else read_latest(path / LATEST_NAME)
    if name not in present and not (path / name).is_dir():
        raise CheckpointError(f"{path} has no directory {name}, the iteration to read. {advice}")
    return path / name


def read_latest(file: Path) -> str:
    """Return the iteration in the file `latest`.

    Raises:
        CheckpointError: the file does not contain the name of a directory.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        name = opened.read(MAX_NAME_LENGTH).strip()
    if not name.isprintable() or not name or name in (".", "..") or Path(name).name != name:
        raise CheckpointError(
            f"{file} should contain the name of an iteration's directory, e.g. 1; it contains {name!r}."
        )
    return name


def open_state_dict(path: Path) -> Tensors:
    """Open the state dict of a SAT weight file, memory-mapped.

    Raises:
        CheckpointError: the file is damaged, or not a SAT checkpoint.
    """
    if path.name == WEIGHTS_NAME:
        return open_tensors(path)
    module = load_pickled(path).get("module")
    if not isinstance(module, dict):
        raise CheckpointError(
            f"{path} has no entry 'module' with tensors by name: it is not a SAT checkpoint. "
            "Give a file that SAT or deepspeed saved, or save your tensors as {'module': tensors}."
        )
    # QLoRA saves lists among the tensors. Their names are kept, so that an error can name the method.
    return {
        name: check_tensor_storage(name, value, path) if isinstance(value, torch.Tensor) else torch.empty(0)
        for name, value in module.items()
    }


# Suffix of a column-parallel layer's name -> number of matrices that are stacked in its weight.
STACKED_MATRICES = {
    "attention.query_key_value": 3,
    "cross_attention.key_value": 2,
    "cross_attention.query": 1,
    "mlp.dense_h_to_4h": 1,
    "lm_head": 1,
}
ROW_PARALLEL = (".dense.weight", ".dense_4h_to_h.weight")
# SAT shards embeddings of at least this many rows, and replicates smaller ones on every rank.
LARGE_VOCABULARY = 1000
VISION, QFORMER = "mixins.eva.model.vit.", "mixins.eva.model.qformer."


def module_config(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the transformer (language model, ViT or Q-Former) that has the tensor `name`."""
    if name.startswith(VISION):
        config = config["eva_args"]
    elif name.startswith(QFORMER):
        config = config["qformer_args"]
    return config


def count_stacked(name: str, config: Mapping[str, Any]) -> int:
    """Return the number of row-sharded matrices stacked in the tensor `name`; 0 if its rows are not sharded."""
    if name.endswith(".word_embeddings.weight"):
        return int(module_config(name, config)["vocab_size"] >= LARGE_VOCABULARY)
    layer = name.rpartition(".")[0]
    return next((count for ending, count in STACKED_MATRICES.items() if layer.endswith(ending)), 0)


def join_ranks(ranks: Sequence[Tensors], config: Mapping[str, Any], layout: str) -> Tensors:
    """Join the shards of all ranks, given in order, to unsharded tensors, each on access.

    Raises:
        CheckpointError: the ranks have different tensors, or adapter tensors, whose sharding SAT does not define.
    """
    if len(ranks) == 1:
        return ranks[0]
    for number, rank in enumerate(ranks):
        different = sorted(set(ranks[0]) ^ set(rank))
        if different:
            raise CheckpointError(f"Rank {number} and rank 0 have different tensors: {different[0]} is in only one.")
    refuse_duplicate_ranks(ranks)
    added = [name for name in ranks[0] if method_of(name)]
    if added:
        raise CheckpointError(
            f"{added[0]} is an adapter that was trained on {len(ranks)} model-parallel ranks, which cannot be joined. "
            "Merge it with the program that trained it."
        )
    return LazyTensors({name: partial(join_tensor_checked, ranks, name, config, layout) for name in ranks[0]})


def refuse_duplicate_ranks(ranks: Sequence[Tensors]) -> None:
    """Raise CheckpointError if consecutive ranks have equal shards of a matrix, which training never produces."""
    name = next((name for name in ranks[0] if name.endswith(ROW_PARALLEL)), None)
    if name is None:
        return
    for number in range(1, len(ranks)):
        shard, previous = ranks[number][name], ranks[number - 1][name]
        if torch.equal(shard, previous) and shard.numel() and shard.min() != shard.max():
            raise CheckpointError(
                f"The files of ranks {number - 1} and {number} contain the same shard of {name}: one is a copy of the "
                "other. Copy the right file again."
            )


def join_tensor_checked(ranks: Sequence[Tensors], name: str, config: Mapping[str, Any], layout: str) -> torch.Tensor:
    """Return the unsharded tensor called `name`; raise CheckpointError if the shapes of its shards do not match."""
    with translate_shape_errors(name):
        return join_tensor(ranks, name, config, layout)


def join_tensor(ranks: Sequence[Tensors], name: str, config: Mapping[str, Any], layout: str) -> torch.Tensor:
    """Return the unsharded tensor called `name`."""
    if name.endswith(ROW_PARALLEL):
        return torch.cat([rank[name] for rank in ranks], dim=1)
    stacked = count_stacked(name, config)
    if not stacked:
        return ranks[0][name]
    if is_language_qkv(name) and layout != SPLIT:
        stacked = 1  # a shard has complete heads, each with its q, k and v
    parts = [rank[name].chunk(stacked) for rank in ranks]
    return torch.cat([part[i] for i in range(stacked) for part in parts])


def shard_tensor(name: str, tensor: torch.Tensor, size: int, config: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the shards of a tensor for `size` ranks; QKV rows are in the split order."""
    if size == 1:
        return [tensor]
    if name.endswith(ROW_PARALLEL):
        return list(tensor.chunk(size, dim=1))
    stacked = count_stacked(name, config)
    if not stacked:
        return [tensor] * size
    parts = [part.chunk(size) for part in tensor.chunk(stacked)]
    return [torch.cat([part[rank] for part in parts]) for rank in range(size)]


def check_parallel_size(size: int, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the model cannot be sharded evenly over `size` ranks."""
    submodels = {"": config, "ViT ": config["eva_args"], "QFormer ": config["qformer_args"]}
    for title, sizes in submodels.items():
        heads, vocabulary = sizes["num_attention_heads"], sizes["vocab_size"]
        if size < 1 or heads % size or (vocabulary >= LARGE_VOCABULARY and vocabulary % size):
            numbers = f"the {title}attention's {heads} heads"
            if not title:
                numbers = f"both {numbers} and the vocabulary of {vocabulary}"
            raise CheckpointError(
                f"A model-parallel size of {size} does not divide {numbers}. Choose one that does, e.g. 1 or 2."
            )
