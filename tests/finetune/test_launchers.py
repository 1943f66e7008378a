"""Training with each launcher and with deepspeed, in one or two processes, gives the result of a plain run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import preparation
from finetune.checkpoints import Run
from finetune.config import TrainingConfig
from finetune.loss import LOGITS_CHUNK
from finetune.methods import method_settings
from finetune.record import read_record
from model.checkpoint.files import open_tensors
from model.command_line import FAILURE
from tests.helpers.finetuning import data, loss_of, losses_of, train  # noqa: F401
from tests.helpers.ports import free_port
from tests.helpers.preloaded import BARE, ForkedProgram, run_forked

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "finetune" / "finetune_visualglm.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"]
MODULES = (*BARE, "finetune.finetune_visualglm", "deepspeed")
TIMEOUT_S = 280
COMPILED = "extensions"  # where torch would put what deepspeed compiles
METHOD = ["--use_lora", "--layer_range", "0", "2", "--train-iters", "3", "--save-interval", "2", "--log-interval", "1"]

pytestmark = pytest.mark.slow


def arguments(data: Path, save: Path, *flags: str) -> list[str]:  # noqa: F811
    """Return the arguments of a training."""
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--save", str(save)]
    return [*given, "--num-workers", "0", "--lr", "1e-3", *flags]


def newest(save: Path) -> Path:
    """Return the directory of the newest run."""
    return max(save.iterdir(), key=lambda path: path.stat().st_mtime)


def launch(launcher: list[str], data: Path, save: Path, *flags: str) -> Path:  # noqa: F811
    """Train by a launcher; return the run's directory."""
    command = [*launcher, SCRIPT, *arguments(data, save, *flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=save.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return newest(save)


def train_alone(program: list[str], data: Path, save: Path, *flags: str) -> Path:  # noqa: F811
    """Train in a fork; return the run's directory."""
    settings: dict[str, Any] = {"modules": MODULES, "paths": (ROOT,), "cwd": save.parent, "timeout": TIMEOUT_S}
    done = run_forked([*program, *arguments(data, save, *flags)], **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return newest(save)


def train_two(data: Path, save: Path, *flags: str) -> Path:  # noqa: F811
    """Train in two forks; return the run's directory."""
    status, errors = run_two(data, save, *flags)
    assert status == 0, errors[-3000:]
    return newest(save)


def run_two(data: Path, save: Path, *flags: str) -> tuple[int, str]:  # noqa: F811
    """Train in two forks with torchrun's environment; return the higher exit status, and the error output."""
    variables = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    variables["TORCH_EXTENSIONS_DIR"] = str(save.parent / COMPILED)
    with (save.parent / "errors").open("w+", encoding="utf-8") as errors:
        programs = [
            ForkedProgram(
                [SCRIPT, *arguments(data, save, *flags)],
                modules=MODULES,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=save.parent,
                env={**variables, "RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in "01"
        ]
        try:
            status = max(abs(program.wait(TIMEOUT_S)) for program in programs)
        finally:
            for program in programs:
                program.kill()
        errors.seek(0)
        return status, errors.read()


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run of one process without deepspeed."""
    return train(data, tmp_path_factory.mktemp("alone"), *METHOD, "--batch-size", "4")


def is_near(run: Path, other: Path) -> bool:
    """Return whether two runs have the same losses and weights, up to rounding."""
    ours, theirs = losses_of(run), losses_of(other)
    assert ours.keys() == theirs.keys()
    stored, expected = (open_tensors(path / "3" / "weights.safetensors") for path in (run, other))
    assert stored.keys() == expected.keys()
    return all(abs(ours[step] - theirs[step]) < 1e-3 for step in theirs) and all(
        torch.allclose(stored[name], expected[name], atol=2e-4) for name in expected
    )


# One process of ZeRO 1 is tested below; two differ from two of ZeRO 2 only within deepspeed.
@pytest.mark.parametrize("stage", ["0", "2", "3"])
def test_two_processes_train_like_one(stage: str, alone: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    flags = [*METHOD, "--batch-size", "2", "--zero-stage", stage]
    run = train_two(data, tmp_path / "save", *flags)
    assert not (tmp_path / COMPILED).exists()  # a killed compilation would leave a lock that later runs wait for
    assert is_near(run, alone)
    assert loss_of(run, data) == pytest.approx(loss_of(alone, data), rel=1e-3)
    (run / "3").rename(tmp_path / "away")
    before = losses_of(run)
    assert train_two(data, tmp_path / "save", *flags, "--resume") == run
    assert losses_of(run) == before
    sessions = read_record(run)["sessions"]
    assert [(session["processes"], session["first_step"], session["status"]) for session in sessions] == [
        (2, 0, "complete"),
        (2, 2, "complete"),
    ]
    ours, theirs = (open_tensors(path / "weights.safetensors") for path in (run / "3", tmp_path / "away"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_stop_early_on_a_metric(data: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    flags = ["--batch-size", "2", "--zero-stage", "1", "--lr", "1e-12"]  # the answers stay the same
    evaluation = ["--valid-data", str(data), "--metric", "chrf", "--eval-interval", "1", "--early-stop", "1"]
    run = train_two(data, tmp_path / "save", *METHOD, *flags, *evaluation)
    state = Run(run, 9).read_state(2)
    assert (state.metric, state.worse) == ("chrf", 1)
    assert (run / "latest").read_text() == "2"


@pytest.mark.parametrize("stage", ["1", "3"])
def test_deepspeed_in_one_process(stage: str, alone: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    run = train_alone([SCRIPT], data, tmp_path / "save", *METHOD, "--batch-size", "4", "--zero-stage", stage)
    assert is_near(run, alone)


@pytest.mark.parametrize("stage", ["0", "2", "3"])
def test_nan_stops_a_bfloat16_training(stage: str, tmp_path: Path) -> None:
    """deepspeed itself would skip such steps, as in float16. The rows have no image: a CPU computes bfloat16 slowly."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    rows = tmp_path / "dataset.json"
    rows.write_text(json.dumps([{"prompt": "How are you?", "label": "Fine."}] * 4), encoding="utf-8")
    flags = ["--full", "--bf16", "--lr", "1e30", "--clip-grad", "0", "--batch-size", "2", "--zero-stage", stage]
    status, error = run_two(rows, tmp_path / "save", *flags)
    assert status == FAILURE
    assert "The loss of step 2 or its gradient is not a number" in error
    assert "rows " in error


@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_a_launcher_starts_two_processes(launcher: list[str], alone: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    command = launcher if launcher is TORCHRUN else [*launcher, str(free_port())]
    run = launch(command, data, tmp_path / "save", *METHOD, "--batch-size", "2")
    assert is_near(run, alone)


def with_whole_embeddings(config: TrainingConfig, layers: int) -> dict[str, Any]:
    """Return the settings of a method without quantized token embeddings, as with ZeRO 3."""
    return {**method_settings(config, layers), "round_embeddings": False}


@pytest.mark.parametrize("method", [["--use_ptuning"], ["--use_qlora"], ["--full", "--lr", "1e-4"]])
def test_each_method_under_zero_3(
    method: list[str],
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    flags = ["--train-iters", "2", "--batch-size", "2", "--zero-stage", "3", "--log-interval", "1"]
    run = train_two(data, tmp_path / "save", *flags, *method)
    if "--use_qlora" in method:  # without ZeRO 3 it would quantize the token embeddings, too
        monkeypatch.setattr(preparation, "method_settings", with_whole_embeddings)
    expected = train(data, tmp_path / "alone", "--batch-size", "4", *method)
    assert loss_of(run, data) == pytest.approx(loss_of(expected, data), rel=2e-3)
    assert json.loads((run / "2" / "state.json").read_text(encoding="utf-8"))["processes"] == 2


def test_a_large_model_is_saved_after_an_evaluation(data: Path, tmp_path: Path) -> None:  # noqa: F811
    """ZeRO 3 gathers a few weights at a time, and prefetches the next ones."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    flags = ["--full", "--lr", "1e-4", "--train-iters", "3", "--batch-size", "4", "--valid-data", str(data)]
    evaluated = ["--eval-interval", "2", "--save-interval", "2", "--eval-batch-size", "99", "--eval-answers", "0"]
    program = ["-m", "tests.helpers.zero3_small"]
    run = train_alone(program, data, tmp_path / "save", *flags, *evaluated, "--zero-stage", "3")
    expected = train(data, tmp_path / "alone", *flags)
    assert loss_of(run, data) == pytest.approx(loss_of(expected, data), rel=2e-3)


def test_answers_of_any_length_under_zero_3(tmp_path: Path) -> None:
    """One process has more answer tokens in a step than a chunk of logits, one has fewer."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    lengths = [LOGITS_CHUNK + 40, 3]
    rows = [{"prompt": "Count.", "label": " ".join(map(str, range(length)))} for length in lengths]
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    flags = ["--full", "--lr", "1e-4", "--train-iters", "2", "--max-length", "1200"]
    run = train_two(file, tmp_path / "save", *flags, "--batch-size", "1", "--zero-stage", "3")
    expected = train(file, tmp_path / "alone", *flags, "--batch-size", "2")
    assert loss_of(run, file) == pytest.approx(loss_of(expected, file), rel=2e-3)


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("0", ["--use_lora"]),
        ("2", ["--use_ptuning", "--pre_seq_len", "4"]),
        ("3", ["--use_lora", "--lora_targets", "llm", "head", "vit"]),
        ("3", ["--use_ptuning", "--pre_seq_len", "4"]),
    ],
)
def test_two_processes_train_with_rehearsal_like_one(stage: str, method: list[str], data: Path, tmp_path: Path) -> None:  # noqa: F811
    """In some steps a process has no rehearsal examples, or only rehearsal examples."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    flags = [*method, "--rehearsal", "5", "--train-iters", "6", "--log-interval", "1"]
    run = train_two(data, tmp_path / "save", *flags, "--batch-size", "1", "--zero-stage", stage)
    expected = train(data, tmp_path / "alone", *flags, "--batch-size", "2")
    ours, theirs = losses_of(run), losses_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(abs(ours[step] - theirs[step]) < 2e-3 for step in theirs)
    assert loss_of(run, data) == pytest.approx(loss_of(expected, data), rel=2e-3)
