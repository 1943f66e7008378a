"""Find, read, join and cut checkpoints of the SAT format: model_config.json, `latest`, files of each rank.

A model is given by its run directory, by one iteration's directory, or by a .pt file. Our own fine-tunes have
<iteration>/weights.safetensors instead, with the same names in it.
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
MAX_LISTED = 20  # iterations that a message names
MAX_NAME_LENGTH = 256  # characters of a file's name
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
    """Return the files of a model's ranks in `folder`, by rank."""
    matches = ((RANK_FILE.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return {int(match[1]): path for match, path in matches if match}


def holds_weights(folder: Path) -> bool:
    """Whether `folder` is an iteration's directory."""
    return (folder / WEIGHTS_NAME).is_file() or bool(rank_files(folder))


def is_sat_checkpoint(path: Path) -> bool:
    """Whether `path` is a run directory, an iteration's directory, or a weight file."""
    if path.is_dir():
        return (path / CONFIG_NAME).is_file() or holds_weights(path)
    return (path.suffix == ".pt" or path.name == WEIGHTS_NAME) and path.is_file()


def find_directory(path: Path) -> Path:
    """Return the directory whose model_config.json describes the model at `path`.

    Raises:
        CheckpointError: there is none in the directory or the one above it.
    """
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    for place in (folder, folder.parent):
        if (place / CONFIG_NAME).is_file():
            return path if place == path.absolute() else place
    raise CheckpointError(
        f"{path} holds weights, but neither {folder} nor {folder.parent} has a {CONFIG_NAME} that describes the model. "
        "SAT writes it into the run's directory; copy it beside the weights."
    )


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Read model_config.json in directory `path`; return its entries and the rows' order that it tells of."""
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
    # Files from before SAT 0.4.1 have no pad_token_id, and their query-key-value rows lie by head.
    layout = config.pop("qkv_layout", SPLIT if "pad_token_id" in config else INTERLEAVED)
    if layout not in LAYOUTS:
        raise CheckpointError(f"{file}: qkv_layout is {reprlib.repr(layout)}; it should be {' or '.join(LAYOUTS)}.")
    return {**config, "pad_token_id": 3 if config.get("pad_token_id") is None else config["pad_token_id"]}, layout


def weight_files(path: Path, config: dict[str, Any], iteration: int | None = None) -> list[Path]:
    """List the files of the model at `path`, one for each model-parallel rank, in order.

    Args:
        iteration: which one of a run directory to read, instead of the one that `latest` names.

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
            f"{files[max(files)]} is named as one of more than {max(files)} weight files; models in at most "
            f"{MAX_RANKS} are read. Remove it, or get the files again."
        )
    size = max([1, int(config.get("model_parallel_size") or 1), *(rank + 1 for rank in files)])
    missing = [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(size) if rank not in files]
    if missing:
        raise CheckpointError(
            f"{folder} should hold the weights in {size} file{'s' * (size > 1)}; {', '.join(missing[:4])} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Copy the rest there."
        )
    return [files[rank] for rank in range(size)]


def iteration_folder(path: Path, iteration: int | None) -> Path:
    """Return the directory of one iteration of the run in `path`."""
    present = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and holds_weights(folder))
    advice = (
        f"There are the iterations {', '.join(present[-MAX_LISTED:])}. Name one by its directory, {path / present[-1]}."
        if present
        else "No iteration with weights is there either. Copy the run's files again."
    )
    if iteration is None and not (path / LATEST_NAME).is_file():
        raise CheckpointError(
            f"{path} has no file called {LATEST_NAME}, which says which iteration to read, e.g. 1. {advice}"
        )
    name = str(iteration) if iteration is not None else read_latest(path / LATEST_NAME)
    if name not in present and not (path / name).is_dir():
        raise CheckpointError(f"{path} has no directory {name}, the iteration to read. {advice}")
    return path / name


def read_latest(file: Path) -> str:
    """Return the iteration that the file `latest` names."""
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        name = opened.read(MAX_NAME_LENGTH).strip()
    if not name.isprintable() or not name or name in (".", "..") or Path(name).name != name:
        raise CheckpointError(f"{file} should hold the name of an iteration's directory, e.g. 1; it holds {name!r}.")
    return name


def open_state_dict(path: Path) -> Tensors:
    """Map the weights of a SAT file into memory."""
    if path.name == WEIGHTS_NAME:
        return open_tensors(path)
    module = load_pickled(path).get("module")
    if not isinstance(module, dict):
        raise CheckpointError(
            f"{path} has no entry 'module' with tensors by name: it is not a SAT checkpoint. "
            "Give a file that SAT or deepspeed wrote, or save your tensors as {'module': tensors}."
        )
    # QLoRA leaves lists among the tensors: kept as names, so that what they come from can be said.
    return {
        name: check_tensor_storage(name, value, path) if isinstance(value, torch.Tensor) else torch.empty(0)
        for name, value in module.items()
    }


# What a column-parallel layer's name ends with -> how many matrices are stacked in it.
STACKED_MATRICES = {
    "attention.query_key_value": 3,
    "cross_attention.key_value": 2,
    "cross_attention.query": 1,
    "mlp.dense_h_to_4h": 1,
    "lm_head": 1,
}
ROW_PARALLEL = (".dense.weight", ".dense_4h_to_h.weight")
# SAT keeps smaller embeddings whole in every rank.
LARGE_VOCABULARY = 1000
VISION, QFORMER = "mixins.eva.model.vit.", "mixins.eva.model.qformer."


def module_config(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the transformer that the tensor called `name` belongs to."""
    if name.startswith(VISION):
        config = config["eva_args"]
    elif name.startswith(QFORMER):
        config = config["qformer_args"]
    return config


def count_stacked(name: str, config: Mapping[str, Any]) -> int:
    """Return how many matrices, each cut by rows, are stacked in the tensor `name`; 0 if its rows are not cut."""
    if name.endswith(".word_embeddings.weight"):
        return int(module_config(name, config)["vocab_size"] >= LARGE_VOCABULARY)
    layer = name.rpartition(".")[0]
    return next((count for ending, count in STACKED_MATRICES.items() if layer.endswith(ending)), 0)


def join_ranks(ranks: Sequence[Tensors], config: Mapping[str, Any], layout: str) -> Tensors:
    """Return the whole tensors of a model in `ranks`, its files in order.

    Raises:
        CheckpointError: the files hold different tensors, or LoRA's, whose cut SAT does not define.
    """
    if len(ranks) == 1:
        return ranks[0]
    for number, rank in enumerate(ranks):
        different = sorted(set(ranks[0]) ^ set(rank))
        if different:
            raise CheckpointError(f"Rank {number} and rank 0 do not hold the same tensors: {different[0]} is in one.")
    refuse_duplicate_ranks(ranks)
    added = [name for name in ranks[0] if method_of(name)]
    if added:
        raise CheckpointError(
            f"{added[0]} was fine-tuned over {len(ranks)} model-parallel ranks, which cannot be joined here. "
            "Merge it with the program that trained it."
        )
    return LazyTensors({name: partial(join_tensor_checked, ranks, name, config, layout) for name in ranks[0]})


def refuse_duplicate_ranks(ranks: Sequence[Tensors]) -> None:
    """Raise CheckpointError where two ranks have the same share of a matrix, as training never leaves them."""
    name = next((name for name in ranks[0] if name.endswith(ROW_PARALLEL)), None)
    if name is None:
        return
    for number in range(1, len(ranks)):
        share, other = ranks[number][name], ranks[number - 1][name]
        if torch.equal(share, other) and share.numel() and share.min() != share.max():
            raise CheckpointError(
                f"The files of ranks {number - 1} and {number} hold the same share of {name}: one is a copy of the "
                "other. Copy the right file there again."
            )


def join_tensor_checked(ranks: Sequence[Tensors], name: str, config: Mapping[str, Any], layout: str) -> torch.Tensor:
    """Return the whole tensor called `name`; raise CheckpointError where its shares do not fit together."""
    with translate_shape_errors(name):
        return join_tensor(ranks, name, config, layout)


def join_tensor(ranks: Sequence[Tensors], name: str, config: Mapping[str, Any], layout: str) -> torch.Tensor:
    """Return the whole tensor called `name`."""
    if name.endswith(ROW_PARALLEL):
        return torch.cat([rank[name] for rank in ranks], dim=1)
    stacked = count_stacked(name, config)
    if not stacked:
        return ranks[0][name]
    if is_language_qkv(name) and layout != SPLIT:
        stacked = 1  # whole heads, each with its q, k and v
    parts = [rank[name].chunk(stacked) for rank in ranks]
    return torch.cat([part[i] for i in range(stacked) for part in parts])


def shard_tensor(name: str, tensor: torch.Tensor, size: int, config: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the share of each of `size` ranks of a tensor whose rows are in the split order."""
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
    """Raise CheckpointError if the model cannot be cut into `size` equal shares."""
    parts = {"": config, "ViT ": config["eva_args"], "QFormer ": config["qformer_args"]}
    for title, part in parts.items():
        heads, vocabulary = part["num_attention_heads"], part["vocab_size"]
        if size < 1 or heads % size or (vocabulary >= LARGE_VOCABULARY and vocabulary % size):
            raise CheckpointError(
                f"A model-parallel size of {size} does not divide the {title}attention's {heads} heads"
                f"{f' and the vocabulary of {vocabulary}' if not title else ''}. Choose one that does, e.g. 1 or 2."
            )
