"""Folders and files of all kinds are read into the same rows; a bad row is told with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from model import SettingError, VisualGLMError
from visualglm.batch.rows import BadRow, Columns, Input
from visualglm.batch.tasks import Task

QUESTION = "What is this?"
RECORDS: list[dict[str, Any]] = [
    {"id": "a", "image": "one.png", "question": "How many?", "split": "test"},
    {"id": "b", "image": "two.png", "question": "What color?", "split": "train"},
]


def write(folder: Path, kind: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"rows{kind}"
    if kind == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif kind == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n", encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        separator = "," if kind == ".csv" else "\t"
        lines = [list(records[0]), *(record.values() for record in records)]
        path.write_text("\ufeff" + "\n".join(separator.join(map(str, line)) for line in lines), encoding="utf-8")
    return path


def tasks_of(rows: Input) -> list[Task]:
    found = list(rows)
    assert all(isinstance(row, Task) for row in found), found
    return [row for row in found if isinstance(row, Task)]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_files_of_all_kinds_give_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = Input(write(tmp_path, kind, RECORDS), [])
    first, second = tasks_of(rows)
    assert rows.count == 2
    assert (first.key, first.number, first.image) == ("a", 1, str(tmp_path / "one.png"))
    assert first.questions == {1: "How many?"}
    assert second.columns == RECORDS[1]
    assert rows.has_keys


def test_questions_for_all_rows_follow_the_rows_own(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl", RECORDS)
    assert [task.questions for task in tasks_of(Input(path, [QUESTION]))] == [{1: QUESTION}] * 2
    both = Input(path, [QUESTION], Columns(question="question"))
    assert tasks_of(both)[0].questions == {1: "How many?", 2: QUESTION}


def test_a_folder_is_read_with_its_subfolders_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/notes.txt", ".hidden/c.png", "._b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = Input(tmp_path, [QUESTION])
    assert sorted(task.key for task in tasks_of(rows)) == ["a/z.JPG", "b.png"]
    assert [task.key for task in tasks_of(rows)] == [task.key for task in tasks_of(rows)]
    assert rows.count == 2


def test_images_may_be_urls_data_or_absent(tmp_path: Path) -> None:
    data = "data:image/png;base64,AAAA"
    values = ["https://example.org/a.png", data, "", None, str(tmp_path / "absolute.png")]
    path = write(tmp_path, ".jsonl", [{"image": value} for value in values])
    tasks = tasks_of(Input(path, [QUESTION]))
    assert [task.image for task in tasks] == [values[0], data, None, None, values[4]]
    assert [task.key for task in tasks] == ["1", "2", "3", "4", "5"]
    assert "image" not in tasks[1].columns  # megabytes that the output need not repeat


def test_images_may_lie_in_a_parquet_file(tmp_path: Path) -> None:
    records = [{"image": {"bytes": b"\x89PNG", "path": "a.png"}}, {"image": {"bytes": None, "path": "b.png"}}]
    first, second = tasks_of(Input(write(tmp_path, ".parquet", records), [QUESTION]))
    assert first.image == b"\x89PNG"
    assert second.image == str(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{torn", "JSON"),
        ("[1]", "JSON object"),
        ('{"id": "x"}', "image"),
        ('{"id": "x", "image": 3}', "int"),
        ('{"image": "a.png"}', "id"),
        ('{"id": "first", "image": "a.png"}', "same id"),
    ],
)
def test_a_bad_row_tells_its_number_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": "first", "image": "a.png"}}\n{line}\n', encoding="utf-8")
    first, bad = Input(path, [QUESTION])
    assert isinstance(first, Task)
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    assert reason in bad.reason


def test_a_row_without_a_question_is_bad(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl", [*RECORDS, {"id": "c", "image": "", "question": " "}])
    *_, bad = Input(path, [])
    assert isinstance(bad, BadRow)
    assert "question" in bad.reason


@pytest.mark.parametrize(
    ("content", "name", "columns", "words"),
    [
        (None, "absent.jsonl", Columns(), "not found"),
        ("x", "rows.xlsx", Columns(), ".csv"),
        ("x", "photo.jpg", Columns(), "folder of the image"),
        ("", "rows.jsonl", Columns(), "no rows"),
        ('{"img": "a"}', "rows.jsonl", Columns(image="photo"), "'img'"),
        ('{"photo": "a"}', "rows.jsonl", Columns(), "--image-column"),
        ('{"image": "a"}', "rows.jsonl", Columns(id="key"), "--id-column"),
        ("image;name\na;b", "rows.csv", Columns(), "image;name"),
        ("{}", "rows.json", Columns(), "jsonl"),
        ("no", "rows.json", Columns(), "JSON"),
        ("no", "rows.parquet", Columns(), "Parquet"),
    ],
)
def test_an_input_that_cannot_be_used_is_told(
    tmp_path: Path, content: str | None, name: str, columns: Columns, words: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(VisualGLMError, match=words):
        Input(path, [QUESTION], columns)


def test_an_empty_folder_and_a_missing_question_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no images"):
        Input(tmp_path, [QUESTION])
    (tmp_path / "a.png").touch()
    with pytest.raises(SettingError, match="--question"):
        Input(tmp_path, [])


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("image,name\na.png,名\n".encode("gb18030"))
    with pytest.raises(VisualGLMError, match="UTF-8"):
        list(Input(path, [QUESTION]))
