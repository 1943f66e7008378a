"""Several seeds are trained by one command, and their numbers summarized."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from finetune.finetune_visualglm import main
from finetune.record import read_record
from finetune.seed_table import format_table
from finetune.seeds import summarize_common
from model.checkpoint.files import open_tensors
from model.command_line import USAGE_ERROR
from model.seeds import t_quantile
from tests.helpers.finetuning import SHORT, data, train  # noqa: F401

NAME = "finetune-visualglm"


def command(data: Path, save: Path, *flags: str) -> list[str]:  # noqa: F811
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--save", str(save)]
    return [*given, "--valid-data", str(data), "--eval-answers", "2", *SHORT, "--use_lora", *flags]


def runs_of(save: Path) -> dict[str, Path]:
    return {path.name.split("-seed")[1].split("-")[0]: path for path in save.glob(f"{NAME}-seed*") if path.is_dir()}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The directory of the runs of two seeds. Do not change it."""
    save = tmp_path_factory.mktemp("seeds")
    assert main(command(data, save, "--seeds", "1", "2")) == 0
    return save


def test_each_seed_has_a_run_with_the_weights_of_a_single_training(
    trained: Path,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    alone = train(data, tmp_path, "--use_lora", "--seed", "2")
    runs = runs_of(trained)
    assert {seed: read_record(run)["settings"]["seed"] for seed, run in runs.items()} == {"1": 1, "2": 2}
    first, second, single = (open_tensors(run / "2" / "weights.safetensors") for run in (runs["1"], runs["2"], alone))
    assert all(torch.equal(second[name], single[name]) for name in single)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_the_summary_is_the_mean_with_its_t_interval(trained: Path) -> None:
    summary = json.loads((trained / f"{NAME}-seeds.json").read_text(encoding="utf-8"))
    values = [read_record(runs_of(trained)[seed])["numbers"]["valid_loss"] for seed in "12"]
    loss = summary["numbers"]["valid_loss"]
    assert summary["runs"] == {seed: str(path) for seed, path in runs_of(trained).items()}
    assert loss["values"] == values
    assert loss["mean"] == pytest.approx(sum(values) / 2)
    half = t_quantile(1) * abs(values[0] - values[1]) / 2  # the deviation over the root of two
    assert (loss["low"], loss["high"]) == pytest.approx((loss["mean"] - half, loss["mean"] + half))
    assert {"loss", "tokens_per_s"} <= summary["numbers"].keys()


def test_finished_seeds_are_not_repeated_and_interrupted_ones_are_resumed(
    trained: Path,
    data: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    save = tmp_path / "runs"
    shutil.copytree(trained, save)
    stopped = runs_of(save)["2"]
    shutil.rmtree(stopped / "2")
    record = read_record(stopped)
    record["status"] = "running"
    record["sessions"][0]["seconds"] = None
    (stopped / "record.json").write_text(json.dumps(record), encoding="utf-8")
    assert main(command(data, save, "--seeds", "1", "2", "3")) == 0
    assert {*runs_of(save)} == {"1", "2", "3"}
    sessions = {seed: len(read_record(run)["sessions"]) for seed, run in runs_of(save).items()}
    assert sessions == {"1": 1, "2": 2, "3": 1}
    printed = capfd.readouterr()
    assert printed.out.count("seed 3") == 1
    assert "is complete" in printed.err
    assert len(list(save.glob(f"{NAME}-seed1-*"))) == 1


def test_other_settings_are_trained_anew(trained: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    save = tmp_path / "runs"
    shutil.copytree(trained, save)
    assert main(command(data, save, "--seeds", "1", "--weight-decay", "0.5")) == 0
    assert len(list(save.glob(f"{NAME}-seed1-*"))) == 2
    numbers = json.loads((save / f"{NAME}-seeds.json").read_text(encoding="utf-8"))["numbers"]
    assert numbers["loss"]["low"] is None


@pytest.mark.parametrize("flags", [["--seeds", "1", "1"], ["--seeds", "1", "--resume"]])
def test_contradictory_flags_are_setting_errors(flags: list[str], data: Path, tmp_path: Path) -> None:  # noqa: F811
    assert main(command(data, tmp_path, *flags)) == USAGE_ERROR


def test_the_table_has_only_numbers_that_all_runs_have() -> None:
    summary = summarize_common([{"loss": 1.0, "chrf": 3.0}, {"loss": 2.0}])
    header, line = format_table([4, 5], summary)
    assert header.split()[0] == "number" and line.split()[:2] == ["loss", "1.5"]
    assert "95 %" in header and "seed 5" in header
