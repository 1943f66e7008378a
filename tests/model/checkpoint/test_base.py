"""A fine-tune with only the trained weights is loaded over its base model, also if that has moved."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model import CheckpointError, load_hf, load_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.resolve import VOCABULARY_NAME
from tests.helpers.checkpoints import QKV, TINY, write_sat
from tests.helpers.cli_program import run_here

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A run that trained one bias of visualglm-tiny, and names a base that no longer exists."""
    tiny = open_checkpoint("visualglm-tiny")
    name = QKV.replace("weight", "bias")
    run = write_sat(tmp_path / "run", {name: dict(tiny.tensors())[name] + 1}, {**tiny.config, "base_model": "./gone"})
    shutil.copy(TINY / VOCABULARY_NAME, run)
    return run


@pytest.mark.parametrize("load", [load_sat, load_hf])
def test_the_base_can_be_named(load: Any, moved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\./gone.*--base"):
        load(moved, device="cpu")
    shutil.copytree(TINY, tmp_path / "elsewhere")
    network = load(moved, device="cpu", base=tmp_path / "elsewhere").network
    plain = load(TINY, device="cpu").network
    name = QKV.replace("weight", "bias")
    trained, began = network.state_dict(), plain.state_dict()
    assert torch.allclose(trained[name], began[name] + 1, atol=2e-3)
    assert all(torch.equal(trained[other], began[other]) for other in began if other != name)


@pytest.mark.parametrize("program", ["cli_demo.py", "cli_demo_hf.py"])
def test_the_programs_take_it(program: str, moved: Path) -> None:
    flags = ["--from_pretrained", str(moved), "--device", "cpu", "--temperature", "0", "--query", "你好"]
    done = run_here([program, *flags, "--base", "visualglm-tiny"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
