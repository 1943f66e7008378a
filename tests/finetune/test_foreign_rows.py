"""Files of LLaMA-Factory, ms-swift and TRL are read, and files are written for them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.check import main
from finetune.conversion import WRITERS, convert_rows
from finetune.errors import BadRowError, DataError
from finetune.formats import Row, parse_row
from finetune.rows import read_rows
from model import SettingError, Turn
from model.command_line import USAGE_ERROR

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
IMAGES = {"images": [SCENE.name]}
ASK = {"role": "user", "content": "Q"}
ASK_PARTS = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
HUMAN = {"from": "human", "value": "<image>Q"}
GPT_GOOD, GPT_BAD = {"from": "gpt", "value": "good"}, {"from": "gpt", "value": "bad"}
SAME = [Turn("Q", "good")]
READ: list[tuple[dict[str, Any], list[Turn]]] = [
    ({"instruction": "<image>Q", "input": "", "output": "good", **IMAGES}, SAME),
    ({"instruction": "<image>Q", "input": "in", "output": "good", **IMAGES}, [Turn("Q\nin", "good")]),
    ({"instruction": "Q", "output": "good", "history": [["a", "b"]], **IMAGES}, [Turn("a", "b"), *SAME]),
    ({"instruction": "<image>Q", "chosen": "good", "rejected": "bad", **IMAGES}, SAME),
    ({"query": "<image>Q", "response": "good", **IMAGES}, SAME),
    ({"conversations": [HUMAN], "chosen": GPT_GOOD, "rejected": GPT_BAD, **IMAGES}, SAME),
    ({"messages": [ASK, GOOD], "rejected_response": "bad", **IMAGES}, SAME),
    ({"prompt": [ASK_PARTS], "completion": [GOOD], **IMAGES}, SAME),
    ({"prompt": "Q", "completion": "good", "label": True, **IMAGES}, SAME),
    ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], **IMAGES}, SAME),
    ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD], **IMAGES}, SAME),
]


@pytest.mark.parametrize(
    "record", [{"prompt": [ASK, BAD, ASK], "completion": [GOOD]}, {"chosen": [ASK, BAD, ASK, GOOD]}]
)
def test_only_the_chosen_answer_is_trained_on(record: dict[str, Any]) -> None:
    row = parse_row(record, 1, SCENE.parent)
    assert (len(row.turns), row.first_trained_turn) == (2, 1)


@pytest.mark.parametrize(("record", "turns"), READ)
def test_rows_of_other_trainers_are_read(record: dict[str, Any], turns: list[Turn]) -> None:
    row = parse_row(record, 1, SCENE.parent)
    assert (row.turns, row.image, row.first_trained_turn, row.ignored_keys) == (turns, SCENE, 0, ())


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"instruction": "Q"}, "instruction"),
        ({"instruction": "Q", "output": "good", "history": 5}, "history"),
        ({"instruction": 5, "output": "good"}, "instruction"),
        ({"completion": "good"}, "prompt"),
        ({"prompt": "Q", "completion": "bad", "label": False}, "label"),
        ({"prompt": [ASK], "chosen": []}, "messages"),
        ({"chosen": "good", "rejected": "bad"}, "prompt"),
    ],
)
def test_bad_rows_are_named(record: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRowError, match=rf"(?s)7.*{words}"):
        parse_row(record, 7, SCENE.parent)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with an image, several turns and a history."""
    shutil.copy(SCENE, tmp_path)
    records = [
        {"img": SCENE.name, "prompt": "Q", "label": "good"},
        {"prompt": "Q", "label": "good", "history": [["a", "b"]]},
        {"messages": [ASK, GOOD, ASK, BAD], **IMAGES},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    return path


def answers(rows: list[Row]) -> list[tuple[Path | None, list[Turn]]]:
    """Return image, earlier turns and question for each answer that is trained on."""
    return [
        (row.image and row.image.resolve(), row.turns[: turn + 1])
        for row in rows
        for turn in range(row.first_trained_turn, len(row.turns))
    ]


@pytest.mark.parametrize("to", WRITERS)
def test_a_written_file_has_the_same_answers(to: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "data.jsonl"
    target.parent.mkdir()
    assert main(["convert", str(source), "--to", to, "--out", str(target)]) == 0
    found, expected = answers(list(read_rows(target))), answers(list(read_rows(source)))
    assert all(one in found for one in expected)
    # The other formats have no answers that are only context.
    assert [one for one in found if one not in expected] == ([] if to == "trl" else [(None, [Turn("a", "b")])])


def test_conversion_overwrites_nothing_and_names_bad_rows(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="exists"):
        convert_rows(source, source, "trl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "Q", "completion": "good"}\n{"prompt": "Q"}\n')
    with pytest.raises(DataError, match=r"(?s)bad\.jsonl.*2"):
        convert_rows(bad, tmp_path / "new.jsonl", "trl")
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize("words", [("convert",), ("check", "--to", "trl"), ("convert", "--to", "trl")])
def test_conversion_needs_a_format_and_a_file(words: tuple[str, ...], source: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([words[0], str(source), *words[1:]])
    assert stopped.value.code == USAGE_ERROR
