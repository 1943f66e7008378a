"""The log of a run is read while it is written, after it was cut off, and after the training was resumed."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.progress import TrainingLogger
from finetune.run_log import LOG_NAME, find_run, read_run_log
from model import SettingError


def write_log(folder: Path, *records: dict[str, Any], rest: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / LOG_NAME).write_text(text + rest, encoding="utf-8")
    return folder


def losses(*steps: int, value: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": step, "loss": value} for step in steps]


def test_the_numbers_of_a_step_are_joined(tmp_path: Path) -> None:
    log = read_run_log(write_log(tmp_path, {"step": 1, "loss": 2.0}, {"step": 1, "valid_loss": 3.0, "samples": []}))
    assert log.numbers == {"loss": [(1, 2.0)], "valid_loss": [(1, 3.0)]}
    assert log.last("samples") == []


@pytest.mark.parametrize(
    "rest", ['{"step": 3, "lo', '{"step"', "[" * 100_000, "\x00\x00", '"text"', "[3]", '{"loss": 1}']
)
def test_a_line_that_is_no_record_is_left_out(rest: str, tmp_path: Path) -> None:
    assert read_run_log(write_log(tmp_path, *losses(1, 2), rest=rest)).numbers["loss"] == [(1, 1.0), (2, 1.0)]


def test_bytes_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    log = write_log(tmp_path, *losses(1)) / LOG_NAME
    log.write_bytes(log.read_bytes() + b"\xff\xfe\n")
    assert read_run_log(tmp_path).numbers["loss"] == [(1, 1.0)]


def test_the_records_of_a_resumed_training_replace_those_after_its_start(tmp_path: Path) -> None:
    first = [*losses(1, 2, 3, 4, 5), {"step": 5, "valid_loss": 9.0}]
    log = read_run_log(write_log(tmp_path, *first, *losses(3, 4, value=7.0)))
    assert log.numbers["loss"] == [(1, 1.0), (2, 1.0), (3, 7.0), (4, 7.0)]
    assert "valid_loss" not in log.numbers  # its step has not been made again


def test_the_later_record_of_one_step_counts(tmp_path: Path) -> None:
    log = read_run_log(write_log(tmp_path, *losses(1, 2), {"step": 2, "loss": 5.0}))
    assert log.numbers["loss"] == [(1, 1.0), (2, 5.0)]


@pytest.mark.parametrize("value", [None, "high", True, [1], float("nan"), float("inf")])
def test_only_finite_numbers_are_points(value: Any, tmp_path: Path) -> None:
    log = read_run_log(write_log(tmp_path, {"step": 1, "loss": value}, *losses(2)))
    assert log.numbers["loss"] == [(2, 1.0)]


def test_a_resumed_training_does_not_append_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    write_log(tmp_path, *losses(1), rest='{"step": 2, "lo')
    logger = TrainingLogger(tmp_path, 1, 3)
    logger.log(2, loss=4.0)
    logger.close()
    assert read_run_log(tmp_path).numbers["loss"] == [(1, 1.0), (2, 4.0)]


def test_a_run_is_found_by_its_directory_its_log_and_its_checkpoints(tmp_path: Path) -> None:
    run = write_log(tmp_path / "run")
    (run / "300").mkdir()
    assert {find_run(path) for path in (run, run / LOG_NAME, run / "300")} == {run}


def test_what_is_no_run_is_refused_with_advice(tmp_path: Path) -> None:
    write_log(tmp_path / "runs" / "first")
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "runs", "first"),
        (tmp_path / "empty", "not a run"),
        (tmp_path / "no", "not exist"),
    ):
        with pytest.raises(SettingError, match=words):
            find_run(path)
