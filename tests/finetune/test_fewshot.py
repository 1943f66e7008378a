"""The demonstration: the script, run without flags, teaches the model backgrounds from twenty images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data import ChatDataset
from finetune.evaluation import answer_held_out
from finetune.methods import SMALL_MODEL, choose_base
from model import load_sat
from tiny.fewshot import write_folder

ROOT = Path(__file__).parents[2]
HELD_OUT, SEED = 200, 1000


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labeled images outside of the training data, whose questions the base model cannot answer."""
    folder = tmp_path_factory.mktemp("held-out")
    write_folder(folder, SEED, HELD_OUT)
    assert score("visualglm-tiny", folder / "dataset.json") < 0.2
    return folder / "dataset.json"


def score(name: str | Path, data: Path) -> float:
    """Return the fraction of correct answers."""
    model = load_sat(name, device="cpu")
    sizes = {"image_length": model.network.image_length, "image_size": model.network.image_size}
    return answer_held_out(model, ChatDataset(data, model.tokenizer, max_length=512, **sizes), HELD_OUT)[0]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout in which the script unpacks the images; other tests use the checkout, too."""
    (tmp_path / "checkout").mkdir()
    for path in ROOT.iterdir():
        if path.name != "fewshot-data":
            (tmp_path / "checkout" / path.name).symlink_to(path)
    return tmp_path / "checkout"


def run_script(script: Path, *flags: str, **variables: str) -> str:
    """Run one of the scripts; return its error output."""
    command = ["bash", str(script), "--device", "cpu", *flags]
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "variables", "flags", "least"),
    [
        ("finetune_visualglm.sh", {}, [], 0.8),
        ("finetune_visualglm_qlora.sh", {}, ["--train-iters", "100", "--rehearsal", "60"], 0.7),  # enough for 0.8
        ("finetune_visualglm.sh", {"METHOD": "--use_ptuning"}, [], 0.6),
    ],
)
def test_twenty_images_teach_the_background(
    script: str,
    variables: dict[str, str],
    flags: list[str],
    least: float,
    held_out: Path,
    checkout: Path,
    tmp_path: Path,
) -> None:
    save = ("--save", str(tmp_path / "runs"))
    run_script(checkout / "finetune" / script, "--from_pretrained", "visualglm-tiny", *save, *flags, **variables)
    (run,) = (tmp_path / "runs").iterdir()
    assert score(run, held_out) >= least


@pytest.mark.skipif(choose_base()[0] != SMALL_MODEL, reason="this machine has means for the large model")
def test_without_a_gpu_the_script_trains_the_small_model(checkout: Path, tmp_path: Path) -> None:
    few = ("--train-iters", "1", "--remember", "4", "--num-workers", "0")
    output = run_script(checkout / "finetune" / "finetune_visualglm.sh", "--save", str(tmp_path / "runs"), *few)
    assert f"the small model {SMALL_MODEL} is trained instead" in output
    assert len(list((tmp_path / "runs").iterdir())) == 1
