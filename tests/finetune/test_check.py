"""The check of training data prints statistics and lists each bad row once."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.check import main
from model.command_line import FAILURE, USAGE_ERROR
from tests.helpers.image_files import encode

GOOD = {"prompt": "图里有什么？", "label": "一只球。"}
TALK = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A ball."}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an image and a truncated image."""
    content = encode(Image.effect_noise((64, 64), 50).convert("RGB"), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    return tmp_path


def check(folder: Path, rows: list[Any], *flags: str) -> int:
    """Write rows into a file, and run the check on it."""
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return main(["check", str(folder / "data.json"), *flags])


def test_statistics_of_a_good_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"img": "a.png", **GOOD}, {"img": "a.png", "conversations": TALK * 2}, GOOD]
    assert check(folder, rows) == 0
    shown = capsys.readouterr()
    for part in ("3 rows, 3 can be used", "4 (2 en, 2 zh); 1 rows have several turns", "1 in 2 rows"):
        assert part in shown.out
    assert "bad rows" not in shown.out
    assert "too long" not in shown.out
    assert not shown.err


def test_bad_rows_and_broken_images_are_listed_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {"img": "half.png", **GOOD}
    assert check(folder, [half, 5, {"img": "a.png", **GOOD}, half, {**GOOD, "label": ""}]) == FAILURE
    shown = capsys.readouterr().out
    assert "5 rows, 1 can be used" in shown
    named = [line.split(":")[0] for line in shown.splitlines() if line.startswith("  Row")]
    assert named == ["  Row 1", "  Row 2", "  Row 4", "  Row 5"]
    assert "half.png" in shown


def test_a_file_with_only_bad_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, [5] * 30) == FAILURE
    shown = capsys.readouterr().out
    assert "30 rows, 0 can be used" in shown
    assert "... and 10 more" in shown


def test_rows_that_are_too_long_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, [GOOD, {**GOOD, "prompt": "很长" * 100}, GOOD], "--max-length", "60") == 0
    shown = capsys.readouterr().out
    assert "1 answers do not fit into 60 tokens" in shown
    assert "the longest is in row 2" in shown


def test_a_file_that_cannot_be_checked_raises_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder / "none.json")]) == FAILURE
    assert check(folder, [GOOD], "--max-length", "5") == USAGE_ERROR
    errors = capsys.readouterr().err
    assert "none.json cannot be read" in errors
    assert "max_length=5 leaves no tokens" in errors
