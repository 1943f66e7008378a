"""A run has a record, and the same training can be repeated from it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from finetune.again import main
from finetune.record import RECORD_NAME, read_record
from model.checkpoint.files import open_tensors
from tests.helpers.finetuning import COLORS, QUESTION, train

RANDOM = (
    "--use_lora",
    "--lora_dropout",
    "0.2",
    "--crop",
    "0.5",
    "--flip",
    "--valid-share",
    "0.3",
    "--eval-answers",
    "2",
)


def write_data(folder: Path) -> Path:
    """Write three images with rows that name them."""
    folder.mkdir()
    rows = [{"img": f"{name}.png", "prompt": QUESTION, "label": name} for name in COLORS]
    for name, color in COLORS.items():
        Image.new("RGB", (32, 32), color).save(folder / f"{name}.png")
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "data.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run, in the folder of its data. Do not change it."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(folder / "data")
        return folder / train(Path("data/data.json"), Path("runs"), *RANDOM)


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A run whose record and data may be changed."""
    shutil.copytree(original.parents[1], tmp_path / "copy")
    copied = tmp_path / "copy" / "runs" / original.name
    change_record(copied, lambda record: record["sessions"][0].update(directory=str(tmp_path / "copy")))
    return copied


def change_record(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record of a run."""
    record = json.loads((run / RECORD_NAME).read_text(encoding="utf-8"))
    change(record)
    (run / RECORD_NAME).write_text(json.dumps(record), encoding="utf-8")


def newest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime)


def test_a_record_says_how_a_run_was_made_and_what_came_out(original: Path) -> None:
    record = read_record(original)
    (session,) = record["sessions"]
    assert (record["status"], record["steps"], session["first_step"], session["last_step"]) == ("complete", 2, 0, 2)
    assert record["settings"]["lora_dropout"] == 0.2
    assert record["settings"]["train_data"] == ["data/data.json"]
    assert {"loss", "valid_loss", "valid_exact", "tokens_per_s", "best_valid_loss"} <= record["numbers"].keys()
    assert {"python", "torch", "transformers", "SwissArmyTransformer"} <= session["versions"].keys()
    assert {"visualglm", "commit"} & session["versions"].keys()
    assert session["machine"]["processor"] and session["machine"]["memory_gb"] > 0
    (data,) = record["data"]["train"]
    assert data["image_count"] == 3
    assert record["seconds"] == session["seconds"] > 0


def test_again_gives_the_same_bits(original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(original), "--save", str(tmp_path)]) == 0
    repeated = newest(tmp_path)
    first, second = (open_tensors(path / "2" / "weights.safetensors") for path in (original, repeated))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(tensor.any() for name, tensor in first.items() if "matrix_B" in name)  # it has learned something
    assert "bit by bit" in capfd.readouterr().err
    record, now = read_record(original), read_record(repeated)
    assert now["repeats"] == str(original)
    for name in ("loss", "valid_loss", "valid_exact"):
        assert now["numbers"][name] == record["numbers"][name]


def test_another_seed_gives_other_bits(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change_record(run, lambda record: record["settings"].update(seed=7))
    assert main([str(run / "2"), "--save", str(tmp_path / "new")]) == 0
    assert "tensors differ" in capfd.readouterr().err


def test_changed_data_stops_with_the_name_of_the_image(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = run.parents[1] / "data"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(data / "绿色.png")
    assert main([str(run)]) == 1
    error = capfd.readouterr().err
    assert "data.json" in error and "绿色.png" in error and "红色.png" not in error
    assert len(list(run.parent.iterdir())) == 1
    assert main([str(run), "--allow-changed-data"]) == 0
    assert "绿色.png" in capfd.readouterr().err
    assert newest(run.parent) != run


def test_changed_rows_stop_with_the_name_of_the_file(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = run.parents[1] / "data" / "data.json"
    data.write_text(data.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert main([str(run)]) == 1
    assert "data.json: its rows have changed" in capfd.readouterr().err


def test_missing_data_is_an_error(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run.parents[1] / "data" / "data.json").unlink()
    assert main([str(run)]) == 1
    assert "data.json" in capfd.readouterr().err


def test_a_changed_base_stops(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change_record(run, lambda record: record["base"].update(digest="0" * 64))
    assert main([str(run)]) == 1
    assert "base model visualglm-tiny" in capfd.readouterr().err


def test_other_versions_are_only_reported(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change_record(run, lambda record: record["sessions"][0]["versions"].update(torch="1.0.0"))
    assert main([str(run), "--save", str(tmp_path / "new")]) == 0
    assert "torch 1.0.0 before" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(format=99), "cannot|not a record"),
        (lambda record: record.pop("sessions"), "not a record"),
        (lambda record: record["settings"].update(no_such_setting=1), "no_such_setting"),
        (lambda record: record["sessions"][0].update(first_step=5), "earlier version"),
        (lambda record: record["sessions"][0].update(processes=2), "torchrun --nproc_per_node 2"),
    ],
)
def test_a_record_that_cannot_be_repeated_is_an_error(
    run: Path, change: Callable[[dict[str, Any]], object], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change_record(run, change)
    assert main([str(run)]) in (1, 2)
    assert re.search(words, capfd.readouterr().err)


def test_a_run_without_a_record_is_an_error(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / RECORD_NAME).write_text("{", encoding="utf-8")
    assert main([str(run)]) == 1
    (run / RECORD_NAME).unlink()
    assert main([str(run)]) == 1
    assert "earlier version" in capfd.readouterr().err
    assert main([str(tmp_path / "absent")]) == 1
    assert "absent" in capfd.readouterr().err


def test_a_resumed_run_adds_a_session(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = Path("data/data.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parents[1])
        train(data, Path("runs"), *RANDOM, "--train-iters", "3", "--resume")
    record = read_record(run)
    assert [session["first_step"] for session in record["sessions"]] == [0, 2]
    assert [session["changes"] for session in record["sessions"]] == [{}, {"train_iters": 3}]
    assert (record["steps"], record["status"]) == (3, "complete")
    assert record["settings"]["train_iters"] == 2
    capfd.readouterr()
    assert main([str(run)]) == 0
    assert "train_iters" in capfd.readouterr().err
    assert read_record(newest(run.parent))["settings"]["train_iters"] == 3


def test_a_resumed_run_reports_changed_images(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run.parents[1]
    Image.new("RGB", (32, 32), (1, 2, 3)).save(folder / "data" / "绿色.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(Path("data/data.json"), Path("runs"), *RANDOM, "--resume")
    assert "Not as at the start of the run: data" in capfd.readouterr().err
    (changes,) = [session["changes"] for session in read_record(run)["sessions"]][1:]
    assert changes["data"]["train"][0]["images"] != read_record(run)["data"]["train"][0]["images"]
    assert main([str(run), "--save", str(folder / "new")]) == 0  # the last data are those of the run


def test_a_training_that_fails_is_recorded_as_failed(run: Path) -> None:
    folder = run.parents[1]
    with pytest.raises(AssertionError):
        train(folder / "data" / "data.json", folder / "failed", "--full", "--lr", "1e30", "--clip-grad", "0")
    assert read_record(newest(folder / "failed"))["status"] == "failed"
