"""Reading the SAT format: model_config.json, `latest`, and <latest>/mp_rank_00_model_states.pt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .hf import is_language_qkv, load_pickled, read_json
from .qkv import split_qkv

CONFIG_NAME = "model_config.json"


def read_config(path: Path) -> dict[str, Any]:
    """Read model_config.json in directory `path`."""
    config = read_json(path / CONFIG_NAME)
    absent = [key for key in ("num_layers", "hidden_size", "eva_args", "qformer_args") if key not in config]
    if absent:
        raise CheckpointError(f"{path / CONFIG_NAME} is not a VisualGLM configuration: it lacks {', '.join(absent)}.")
    # Files from before SAT 0.4.1 have no pad_token_id, and their query-key-value rows lie by head.
    layout = "split" if "pad_token_id" in config else "interleaved"
    return {"pad_token_id": 3, "qkv_layout": layout, **config}


def weight_files(path: Path) -> list[Path]:
    """Return the one weight file that `latest` points to."""
    latest = path / "latest"
    if not latest.is_file():
        raise CheckpointError(f"{path} has no file called latest, which says which iteration to read, e.g. 1.")
    folder = path / latest.read_text(encoding="utf-8").strip()
    files = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if len(files) != 1:
        raise CheckpointError(
            f"{folder} should hold one file mp_rank_00_model_states.pt; it holds {len(files)} files of that kind."
        )
    return files


def open_module(path: Path) -> dict[str, torch.Tensor]:
    """Map the weights of a SAT file into memory."""
    content = load_pickled(path)
    if "module" not in content:
        raise CheckpointError(f"{path} has no entry 'module': it is not a SAT checkpoint.")
    return content["module"]  # type: ignore[no-any-return]


def count_tensors(files: list[Path]) -> int:
    """Count the tensors in `files`."""
    return sum(len(open_module(file)) for file in files)


def read_tensors(files: list[Path], config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (SAT name, tensor) with query-key-value rows in the split order."""
    for file in files:
        for name, tensor in open_module(file).items():
            if is_language_qkv(name) and config["qkv_layout"] == "interleaved":
                tensor = split_qkv(tensor, config["num_attention_heads"])
            yield name, tensor
