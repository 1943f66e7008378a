"""The table and the JSON file report the results."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny.evaluation_data import count_words, make_results
from tiny.evaluation.report import describe_machine, format_overall, format_table, write_json
from tiny.evaluation.results import Result

RESULTS = [
    *make_results(9, 1, 1, kind="colour", language="zh"),
    *make_results(10, 0, 10, kind="colour", language="en"),
    *make_results(4, 0, 0, kind="describe", language="en", score_things=count_words),
    *make_results(1, 1, None, kind="text", language="zh", image=None, swapped_image=None),
]


def row_of(kind: str, results: list[Result] = RESULTS) -> str:
    return next(line for line in format_table(results) if line.startswith(f"{kind} "))


def test_a_row_has_scores_intervals_and_control_of_both_languages() -> None:
    zh, en = row_of("colour").index("90.0 %"), row_of("colour").index("100.0 %")
    assert zh < en
    assert row_of("colour").split()[1:7] == ["90.0", "%", "[", "59.6,", "98.2]", "10.0"]
    assert row_of("describe").split()[1] == "-"


def test_a_kind_that_does_not_look_is_marked() -> None:
    assert row_of("colour").endswith("not looking (en)")
    assert "not looking" not in row_of("describe")
    assert "not looking" not in row_of("all")


def test_questions_without_an_image_have_no_control_score() -> None:
    assert row_of("text").split()[1:] == ["50.0", "%", "[", "9.5,", "90.5]", "-", "-"]


def test_columns_are_aligned() -> None:
    lines = [line for line in format_table(RESULTS) if "%" in line and "looking" not in line and ":" not in line]
    assert len(lines) >= 4
    assert len({len(line) for line in lines}) == 1


def test_counts_of_things_follow_the_table_if_there_are_descriptions() -> None:
    assert list(format_table(RESULTS))[-1] == "things in descriptions: en 4 named correctly, 0 wrongly, 4 missing"
    assert list(format_table(make_results(1, 0)))[-1].startswith("all")


def test_the_overall_line_has_one_decimal() -> None:
    assert format_overall(RESULTS) == "overall 92.3 %"
    assert format_overall(make_results(3, 0)) == "overall 100.0 %"


def test_the_json_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    machine = describe_machine(torch.device("cpu"), torch.bfloat16)
    write_json(path, {"seed": 3}, machine, RESULTS)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert content["settings"] == {"seed": 3}
    assert (content["machine"]["device"], content["machine"]["dtype"]) == ("cpu", "bfloat16")
    assert content["machine"]["torch"] == torch.__version__
    assert (content["overall"]["right"], content["overall"]["count"]) == (24, 26)
    cell = content["kinds"]["colour"]["zh"]
    assert (cell["count"], cell["right"], cell["percent"], cell["swapped"], cell["looking"]) == (10, 9, 90, 10, True)
    assert (cell["low"], cell["high"]) == (pytest.approx(59.6, abs=0.1), pytest.approx(98.2, abs=0.1))
    assert content["kinds"]["colour"]["en"]["looking"] is False
    assert content["kinds"]["text"]["zh"]["swapped"] is None
    assert content["things"] == {"en": {"right": 4, "wrong": 0, "missing": 4}}
    assert len(content["questions"]) == len(RESULTS)
    asked = content["questions"][9]
    assert (asked["question"], asked["expected"], asked["answer"]) == ("What is right?", ["right"], "wrong")
    assert (asked["right"], asked["right_when_swapped"]) == (False, False)
    assert (asked["picture"], asked["swapped_picture"]) == ("red", "blue")
