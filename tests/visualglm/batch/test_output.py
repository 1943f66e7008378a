"""The output holds whole lines of one run, and is written by one program at a time."""

import errno
import json
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from model import SettingError, VisualGLMError
from model.names import EMBEDDED
from visualglm.batch.output import OutputError, OutputFile
from visualglm.batch.record import check_record, make_record, record_path
from visualglm.batch.rows import Columns, Input
from visualglm.batch.tasks import Result, Settings, Task

TINY = Settings("visualglm-tiny")


def result(key: str, number: int = 1, **columns: Any) -> Result:
    return Result(Task(key, 1, None, {1: "One?", 2: "Two?"}, columns), number, "yes", "stop", 9, 1)


def write(path: Path, *results: Result) -> None:
    output = OutputFile(path)
    for one in results:
        output.write(one)
    output.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_are_found_again_by_key_and_question(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, result("a"), result("图", 2))
    write(path, result("c"))
    output = OutputFile(path)
    assert output.done == {("a", 1), ("图", 2), ("c", 1)}
    output.close()
    assert len(lines(path)) == 3


@pytest.mark.parametrize("torn", [b'{"key": "b", "ques', b'{"key": "b", "question_number": 1}', b"\0\0\0\0\n"])
def test_an_incomplete_last_line_is_removed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "out.jsonl"
    write(path, result("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    write(path, result("b"))
    assert [line["key"] for line in lines(path)] == ["a", "b"]
    assert path.read_bytes().startswith(whole)


def test_columns_are_kept_and_none_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, result("a", split="test", answer="no", question="One?", day=date(2026, 1, 2)))
    [line] = lines(path)
    assert line["split"] == "test"
    assert (line["answer"], line["input_answer"]) == ("yes", "no")
    assert line["question"] == "One?"
    assert "input_question" not in line
    assert line["day"] == "2026-01-02"


def test_a_name_that_is_not_unicode_is_written_and_found(tmp_path: Path) -> None:
    path, name = tmp_path / "out.jsonl", os.fsdecode(b"\xff.png")
    write(path, result(name))
    output = OutputFile(path)
    assert output.done == {(name, 1)}
    output.close()


def test_lines_of_another_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"text": "mine"}\n{"text": "too"}\n', encoding="utf-8")
    with pytest.raises(OutputError, match="Line 1"):
        OutputFile(path)
    assert len(lines(path)) == 2


def test_two_programs_cannot_write_one_file(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "out.jsonl")
    with pytest.raises(OutputError, match="Another program"):
        OutputFile(tmp_path / "out.jsonl")
    output.close()
    OutputFile(tmp_path / "out.jsonl").close()


def test_a_folder_or_a_missing_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is a folder"):
        OutputFile(tmp_path)
    with pytest.raises(SettingError, match="does not exist"):
        OutputFile(tmp_path / "absent" / "out.jsonl")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device file")
def test_a_device_is_no_output() -> None:
    with pytest.raises(SettingError, match="regular file"):
        OutputFile(Path("/dev/null"))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = OutputFile(tmp_path / "out.jsonl")
    monkeypatch.setattr(output, "file", FullFile(output.file))
    with pytest.raises(OutputError, match="same command"):
        output.write(result("a"))
    output.close()


class FullFile:
    """A file on a full disk, which takes a part of the first line."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.room = 5

    def write(self, line: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken, self.room = self.room, 0
        return int(self.file.write(line[:taken]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def start(folder: Path, settings: Settings = TINY, questions: tuple[str, ...] = ("One?",), **columns: str) -> None:
    """Begin or continue a run in `folder`, which has an answer already."""
    rows = Input(folder / "rows.jsonl", questions, Columns(**columns))
    check_record(
        folder / "out.jsonl", make_record(settings, rows), rows, is_started=record_path(folder / "out.jsonl").exists()
    )


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"image": "", "name": "a"}\n', encoding="utf-8")
    start(tmp_path)
    return tmp_path


def test_the_same_run_goes_on_also_with_more_rows(begun: Path) -> None:
    start(begun)
    start(begun, Settings("visualglm-tiny", loading={"device": "cpu"}, max_batch_size=3))
    with (begun / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"image": "", "name": "b"}\n')
    start(begun)


@pytest.mark.parametrize(
    ("settings", "questions", "columns", "words"),
    [
        (TINY, ("Two?",), {}, "questions"),
        (TINY, ("One?",), {"id": "name"}, "columns"),
        (Settings("visualglm-tiny", sampling={"seed": 3}), ("One?",), {}, "seed"),
        (Settings("visualglm-tiny", hf=True), ("One?",), {}, "hf"),
        (Settings("visualglm-tiny", language="zh"), ("One?",), {}, "language"),
    ],
)
def test_another_run_is_refused_by_what_differs(
    begun: Path, settings: Settings, questions: tuple[str, ...], columns: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        start(begun, settings, questions, **columns)
    start(begun)


def test_changed_rows_without_ids_are_refused(begun: Path) -> None:
    (begun / "rows.jsonl").write_text('{"image": "", "name": "c"}\n', encoding="utf-8")
    with pytest.raises(SettingError, match="rows"):
        start(begun)


def test_another_model_is_refused(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("model") / "copy"
    shutil.copytree(EMBEDDED / "visualglm-tiny", copy)
    start(begun, Settings(str(copy)))  # the same model elsewhere
    [weights] = copy.glob("*.safetensors")
    with weights.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\1\1")
    with pytest.raises(SettingError, match="the model"):
        start(begun, Settings(str(copy)))


def test_answers_without_a_record_are_refused(begun: Path) -> None:
    rows = Input(begun / "rows.jsonl", ["One?"])
    record = make_record(TINY, rows)
    record_path(begun / "out.jsonl").unlink()
    with pytest.raises(VisualGLMError, match="record"):
        check_record(begun / "out.jsonl", record, rows, is_started=True)
