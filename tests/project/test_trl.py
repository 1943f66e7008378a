"""TRL's trainers run on an exported directory; their adapters chat with the programs of this project."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from examples.trl.scenes import write_scenes
from model import load_sat, score_batch
from tests.model.hf.test_export import make_export

ROOT = Path(__file__).parents[2]
FOLDER = os.environ.get("TRL_FOLDER")  # of the packages of TRL; make test-slow installs them
METRIC = {"sft": "loss", "dpo": "loss", "grpo": "reward"}
COMMON = "--trust_remote_code --use_peft --report_to none --bf16 False --dtype float32 --logging_steps 1 --max_steps 4"
OPTIONS = {
    "sft": "--learning_rate 1e-3 --per_device_train_batch_size 2",
    "dpo": "--learning_rate 1e-3 --per_device_train_batch_size 2",
    "grpo": "--reward_funcs examples.trl.grpo.is_short --per_device_train_batch_size 2 --num_generations 2 "
    "--max_completion_length 8",
}
needs_trl = pytest.mark.skipif(
    not (FOLDER or find_spec("trl")), reason="trl is not installed, and the variable TRL_FOLDER names no folder with it"
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of rows about drawn scenes for each trainer."""
    folder = tmp_path_factory.mktemp("trl") / "scenes"
    write_scenes(folder, 12)
    return folder


def run_python(folder: Path, *words: str) -> None:
    """Run Python with TRL, whose caches are in `folder`."""
    paths = os.pathsep.join(filter(None, (FOLDER, str(ROOT))))
    caches = {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    settings = {**os.environ, **caches, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def read_metric(output: Path, name: str) -> list[float]:
    """Return a metric of each step."""
    (file,) = output.glob("checkpoint-*/trainer_state.json")
    history: list[dict[str, Any]] = json.loads(file.read_text())["log_history"]
    return [step[name] for step in history if name in step]


class Scores(NamedTuple):
    """Log-probabilities of two answers."""

    short: float
    long: float


def score(source: Path) -> Scores:
    """Return the log-probabilities of a short answer, which the trainers reward, and of a long one."""
    model, image = load_sat(str(source), device="cpu"), str(ROOT / "examples/scene.png")
    questions = ("How many objects are in the picture?", "Describe the image.")
    answers = ("In short: There are three objects in the picture.", "The picture shows a black ring, a purple car and")
    found = score_batch([image] * 2, model.network, model.tokenizer, questions, answers, english=True)
    return Scores(*(one.total for one in found))


def test_the_rows_have_the_columns_of_the_trainers(scenes: Path) -> None:
    expected = {"sft": {"completion"}, "dpo": {"chosen", "rejected"}, "grpo": set()}
    for kind, columns in expected.items():
        lines = (scenes / kind / "train" / "metadata.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 12
        assert all(row.keys() == {"images_file_names", "prompt", *columns} for row in rows)
        assert all((scenes / kind / "train" / name).is_file() for row in rows for name in row["images_file_names"])


@needs_trl
@pytest.mark.slow
@pytest.mark.parametrize("kind", list(METRIC))
def test_a_script_trains_and_its_adapter_chats(kind: str, scenes: Path, tmp_path: Path) -> None:
    exported, output = make_export(tmp_path / "exported"), tmp_path / "adapter"
    run_python(tmp_path, str(ROOT / f"examples/trl/{kind}.py"), str(exported), str(scenes / kind), str(output))
    values = read_metric(output, METRIC[kind])
    first, last = sum(values[:4]), sum(values[-4:])
    assert last > first if METRIC[kind] == "reward" else last < first
    base, trained = (score(source) for source in (exported, output))
    assert trained.short > base.short if kind != "grpo" else trained.long < base.long


@needs_trl
@pytest.mark.slow
@pytest.mark.parametrize("kind", list(METRIC))
def test_a_command_trains(kind: str, scenes: Path, tmp_path: Path) -> None:
    exported, output = make_export(tmp_path / "exported"), tmp_path / "adapter"
    words = ("--model_name_or_path", str(exported), "--dataset_name", str(scenes / kind), "--output_dir", str(output))
    program = "from trl.cli import main; main()"
    run_python(tmp_path, "-c", program, kind, *words, *COMMON.split(), *OPTIONS[kind].split())
    assert len(read_metric(output, METRIC[kind])) == 4
    assert (output / "adapter_config.json").is_file()
