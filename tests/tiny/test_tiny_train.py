"""Training resumes from its state, lowers its loss, and writes a model that loads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import load_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.resolve import EMBEDDED
from tiny.train import learning_rate

ROOT = Path(__file__).parents[2]


def train(directory: Path, steps: int, *options: str) -> list[dict[str, float]]:
    """Train a few small steps in a subprocess; return the reports."""
    directory.mkdir(exist_ok=True)
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "visualglm-tiny" / name, directory)
    sizes = ["--images", "2", "--questions", "8", "--workers", "0", "--report", "1"]
    command = [sys.executable, "-m", "tiny.train", "--out", str(directory), "--steps", str(steps), *sizes, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, 1000, 1e-3, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state.pt"), "--save", "3")
    whole = train(tmp_path / "whole", 4, *state)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
    rest = train(tmp_path / "rest", 4, *state)
    assert [line["step"] for line in rest] == [4]
    assert rest[0]["answer"] == whole[3]["answer"]
    expected = dict(open_checkpoint(tmp_path / "whole").tensors())
    for name, tensor in open_checkpoint(tmp_path / "rest").tensors():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.slow
def test_training_lowers_the_loss_and_writes_a_model_that_loads(tmp_path: Path) -> None:
    reports = train(tmp_path / "model", 18, "--lr", "1e-2")  # still warming up: the rate reaches 6e-4
    assert reports[-1]["answer"] < reports[0]["answer"] - 0.3
    assert load_sat(tmp_path / "model", device="cpu").network.image_length == 32


@pytest.mark.slow
def test_going_on_from_a_model_leaves_its_vit(tmp_path: Path) -> None:
    directory = tmp_path / "further"
    reports = train(directory, 2, "--start", "visualglm-tiny", "--warm_up", "1", "--lr", "1e-4")
    assert all(line["look"] < 0.5 for line in reports)  # the mean embedding of the embedded model encodes it already
    assert all(line["answer"] < 0.5 for line in reports)
    expected = dict(open_checkpoint("visualglm-tiny").tensors())
    same = {name for name, tensor in open_checkpoint(directory).tensors() if torch.equal(tensor, expected[name])}
    assert same >= {name for name in expected if ".vit." in name}
    changed = ("mixins.eva.model.glm_proj.weight", "transformer.layers.0.mlp.dense_h_to_4h.weight")
    assert not same & set(changed)
