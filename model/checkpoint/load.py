"""A model's directory, of either format -> its configuration and tensors in SAT's names and layout."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from . import hf, sat
from .resolve import resolve

# Older SAT models own a table that no forward pass reads.
IGNORED = {"transformer.position_embeddings.weight"}
RECOMPUTED = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        path: its directory.
        config: the entries of a SAT model_config.json.
        count: number of tensors, for a progress bar.
        tensors: opens the stream of (SAT name, tensor on the CPU), one at a time.
    """

    path: Path
    config: dict[str, Any]
    count: int
    tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]


def open_checkpoint(name: str | os.PathLike[str], *, home: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Open the model called `name` without reading its weights yet.

    Raises:
        CheckpointError: nothing found, or no configuration or weights that we can read.
    """
    path = resolve(name, home=home)
    reader = sat if (path / sat.CONFIG_NAME).is_file() else hf
    config = reader.read_config(path)
    files = reader.weight_files(path)
    return Checkpoint(path, config, reader.count_tensors(files), lambda: reader.read_tensors(files, config))


def load_tensors(model: nn.Module, checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy every tensor of `checkpoint` into `model`, to its device and dtype.

    Args:
        progress: is called with (tensors read, tensors in all).

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; they are named.
    """
    targets = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(RECOMPUTED)}
    missing, unknown = set(targets), []
    for done, (name, tensor) in enumerate(checkpoint.tensors(), start=1):
        if name in targets:
            copy_tensor(targets[name], tensor, name, checkpoint.path)
            missing.discard(name)
        elif name not in IGNORED and not name.endswith(RECOMPUTED):
            unknown.append(name)
        if progress is not None:
            progress(done, checkpoint.count)
    if missing or unknown:
        raise CheckpointError(describe_mismatch(checkpoint.path, sorted(missing), unknown))


def copy_tensor(target: torch.Tensor, tensor: torch.Tensor, name: str, path: Path) -> None:
    """Copy `tensor` into the parameter `target` of the same shape."""
    if target.shape != tensor.shape:
        raise CheckpointError(
            f"{path}: {name} has shape {list(tensor.shape)}, the configuration asks for "
            f"{list(target.shape)}. The weights and the configuration belong to different models."
        )
    with torch.no_grad():
        target.copy_(tensor)


def describe_mismatch(path: Path, missing: list[str], unknown: list[str]) -> str:
    """Say which tensors do not fit, a few by name."""
    lines = [f"The weights in {path} do not fit the model that their configuration describes."]
    for title, names in (("missing", missing), ("unknown", unknown)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"{title}: {', '.join(names[:5])}{more}")
    lines.append("Is it another model's file, or a fine-tuned one whose method adds tensors of its own?")
    return "\n".join(lines)
