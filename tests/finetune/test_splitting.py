"""A fraction of the training images is held out; the script does not augment a user's own images."""

import json
import os
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.arguments import parse_arguments
from finetune.data import split_rows
from finetune.errors import DataError
from finetune.progress import LOG_NAME
from finetune.rows import Rows, read_rows
from model.errors import SettingError
from tests.helpers.finetuning import data, train  # noqa: F401
from tests.helpers.preloaded import run_forked

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
case "$*" in
    "-m finetune.methods"*) echo {base} ;;
    "-m zipfile"*) ;;
    *) for argument in "$@"; do echo "$argument"; done ;;
esac
"""


def write_rows(folder: Path, name: str, rows: list[Any]) -> Path:
    """Write a file of training data."""
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / name


@pytest.fixture
def files(tmp_path: Path) -> list[Rows]:
    """Two files with thirty rows about ten images, twenty rows without an image, and a bad row."""
    for number in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    with_image = [{"img": f"{number % 10}.png", "prompt": f"{number}?", "label": "x"} for number in range(30)]
    without = [{"prompt": f"{number}!", "label": "x"} for number in range(20)]
    paths = [
        write_rows(tmp_path, "a.jsonl", with_image[:15] + without),
        write_rows(tmp_path, "b.jsonl", [5, *with_image[15:]]),
    ]
    return [read_rows(path) for path in paths]


def questions(files: list[Rows]) -> list[str]:
    """Return the questions of all usable rows."""
    return [rows[index].turns[0].question for rows in files for index in range(len(rows)) if rows.read_json(index) != 5]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_no_image_is_on_both_sides_and_no_row_is_lost(files: list[Rows], share: float) -> None:
    trained, held_out = split_rows(files, share, seed=1)
    assert sorted(questions(trained) + questions(held_out)) == sorted(questions(files))
    groups = {
        side: {int(text[:-1]) % 10 if text[-1] == "?" else text for text in questions(rows)}
        for side, rows in (("trained", trained), ("held", held_out))
    }
    assert not groups["trained"] & groups["held"]
    assert len(groups["held"]) == max(1, round(share * 30))
    assert sum(len(rows) for rows in trained) + sum(len(rows) for rows in held_out) == sum(map(len, files))


def test_the_same_seed_holds_out_the_same_rows(files: list[Rows]) -> None:
    assert questions(split_rows(files, 0.3, 7)[1]) == questions(split_rows(files, 0.3, 7)[1])
    assert questions(split_rows(files, 0.3, 7)[1]) != questions(split_rows(files, 0.3, 8)[1])


def test_too_little_data_is_not_split(tmp_path: Path) -> None:
    rows = read_rows(write_rows(tmp_path, "a.jsonl", [{"prompt": "a", "label": "b"}]))
    with pytest.raises(DataError, match="--valid-share"):
        split_rows([rows], 0.5, 1)
    for share in ("1", "-0.1"):
        with pytest.raises(SettingError, match="valid-share"):
            parse_arguments(["--use_lora", "--train-data", "a", "--valid-share", share])


def test_a_run_is_evaluated_on_held_out_rows_and_the_printed_chat_command_works(
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(data, tmp_path / "run s", "--use_lora", "--train-iters", "1", "--valid-share", "0.3")
    output = capsys.readouterr().err
    assert "3 answers to train on" in output
    assert "Held out for the evaluation: 1 answers" in output
    records = [json.loads(line) for line in (run / LOG_NAME).read_text(encoding="utf-8").splitlines()]
    assert [len(record["samples"]) for record in records if "valid_loss" in record] == [1]
    printed = re.search("Chat with it: (.*)", output)
    assert printed is not None
    interpreter, *command = shlex.split(printed[1])
    assert shutil.which(interpreter)
    done = run_forked([*command, "--device", "cpu", "--query", "你好！", "--temperature", "0"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def script_arguments(tmp_path: Path, *flags: str, base: str = "visualglm-tiny") -> list[str]:
    """Return the command line with which the script would train."""
    stub = tmp_path / "python"
    stub.write_text(STUB.format(base=base), encoding="utf-8")
    stub.chmod(0o755)
    command = ["bash", str(ROOT / "finetune" / "finetune_visualglm.sh"), *flags]
    environment = {**os.environ, "PYTHON": str(stub)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    crop = [word for word in ("--crop 0.5", "--flip") if word in done.stderr]
    assert crop == ([] if "--crop" not in done.stdout else ["--crop 0.5", "--flip"])  # the script prints its settings
    first, *arguments = done.stdout.splitlines()
    assert first == "finetune/finetune_visualglm.py"
    return arguments


@pytest.mark.parametrize("flags", [["--train-data", "x.json"], ["--train_data=x.json"], ["--train_data", "x.json"]])
def test_a_users_images_are_not_augmented(flags: list[str], tmp_path: Path) -> None:
    options = parse_arguments(script_arguments(tmp_path, *flags))
    assert (options.crop, options.flip, options.train_data) == (1.0, False, [Path("x.json")])


def test_the_bundled_images_are_augmented_unless_flags_disable_it(tmp_path: Path) -> None:
    options = parse_arguments(script_arguments(tmp_path))
    assert (options.crop, options.flip, options.train_data) == (0.5, True, [Path("fewshot-data/dataset.json")])
    options = parse_arguments(script_arguments(tmp_path, "--crop", "1", "--no_flip"))
    assert (options.crop, options.flip) == (1.0, False)


def test_the_bundled_images_are_found_from_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(ROOT / "fewshot-data.zip") as archive:
        archive.extractall(tmp_path)
    file = tmp_path / "fewshot-data" / "dataset.json"
    monkeypatch.chdir(ROOT.parent)
    assert all(row.image is not None for row in read_rows(file))
    monkeypatch.chdir(file.parent)
    assert all(row.image is not None for row in read_rows(file.name))
    monkeypatch.chdir(tmp_path)  # the original's program starts in this directory
    assert all(Path(row["img"]).is_file() for row in json.loads(file.read_text(encoding="utf-8")))
