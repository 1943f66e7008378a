"""A wrong number of attention heads that fits all shapes is detected by the rotary frequencies in the files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import CheckpointError, load_hf, load_sat
from model.checkpoint import open_checkpoint
from tests.helpers.checkpoints import TINY, Small, write_sat

FREQUENCIES = "transformer.layers.2.attention.rotary_emb.inv_freq"
SAT_FREQUENCIES = "mixins.chatglm-attn.rotary_emb.inv_freq"
pytestmark = pytest.mark.usefixtures("offline")


def write_tiny(directory: Path, heads: int, frequencies: int) -> Path:
    """Save visualglm-tiny with these numbers of heads in its configuration and of rotary frequencies in its files."""
    directory.mkdir()
    for file in TINY.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    tensors = load_file(TINY / "model.safetensors")
    tensors[FREQUENCIES] = torch.ones(frequencies)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((TINY / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_attention_heads": heads}))
    return directory


@pytest.mark.parametrize("load", [load_sat, load_hf])
def test_hugging_face_files_tell(load: Any, tmp_path: Path) -> None:
    heads = json.loads((TINY / "config.json").read_text())["num_attention_heads"]
    frequencies = json.loads((TINY / "config.json").read_text())["hidden_size"] // heads // 4
    load(write_tiny(tmp_path / "right", heads, frequencies), device="cpu")
    message = f"num_attention_heads is {heads // 2}.*{FREQUENCIES} has {frequencies}.* {heads} heads"
    with pytest.raises(CheckpointError, match=message):
        load(write_tiny(tmp_path / "wrong", heads // 2, frequencies), device="cpu")


def test_files_of_sat_tell(small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = model.state_dict()
    assert SAT_FREQUENCIES in tensors
    open_checkpoint(write_sat(tmp_path / "right", tensors, config))
    wrong = {**config, "num_attention_heads": config["num_attention_heads"] // 2}
    with pytest.raises(CheckpointError, match=f"{config['num_attention_heads']} heads"):
        open_checkpoint(write_sat(tmp_path / "wrong", tensors, wrong))


@pytest.mark.parametrize("frequencies", [0, 7])
def test_frequencies_that_fit_nothing_are_said(frequencies: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="heads"):
        open_checkpoint(write_tiny(tmp_path / "wrong", 8, frequencies))


def test_files_without_frequencies_are_believed(small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != SAT_FREQUENCIES}
    open_checkpoint(write_sat(tmp_path / "run", tensors, config))
