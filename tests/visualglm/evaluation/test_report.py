"""The report as a table, as JSON, and as a page."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visualglm.evaluation.answers import AnswerRow, match_answers
from visualglm.evaluation.bootstrap import Interval
from visualglm.evaluation.data import ImageFile, Question
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.metrics import METRICS
from visualglm.evaluation.plots import bars
from visualglm.evaluation.report import SWAPPED, WITHOUT_IMAGE, Report, make_report, write_json
from visualglm.evaluation.report_page import write_report_page
from visualglm.evaluation.report_table import BLIND, format_report


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return [
        Question(
            str(number),
            ImageFile(f"{number % 6}.png", tmp_path / f"{number % 6}.png"),
            f"Is there a <thing> {number}?",
            ("yes" if number % 2 else "no",),
            kind=("popular", "random & rare")[number % 3 == 0],
            group=f"{number % 6}.png",
        )
        for number in range(24)
    ]


def answers(questions: list[Question], wrong: int, logprob: float | None = -0.1) -> list[AnswerRow]:
    other = {"yes": "no", "no": "yes"}
    return [
        AnswerRow(q.key, other[q.answers[0]] if number < wrong else q.answers[0], logprob)
        for number, q in enumerate(questions)
    ]


@pytest.fixture
def report(questions: list[Question]) -> Report:
    metrics = [METRICS["pope"], METRICS["exact_match"]]
    controls = {SWAPPED: answers(questions, 24)[:12], WITHOUT_IMAGE: answers(questions, 4)}
    return make_report(
        "tiny on scenes", metrics, match_answers(questions, answers(questions, 4)), controls, {"seed": 1}
    )


def test_the_table_has_scores_kinds_and_controls(report: Report) -> None:
    text = "\n".join(format_report(report))
    assert "24 questions, 6 images" in text
    assert "accuracy" in text and "83.33" in text
    assert "random & rare" in text
    assert "12 of 24 questions" in text
    lines = text.splitlines()
    assert not any(BLIND in line for line in lines if "swapped" in line)
    assert all(BLIND in line for line in lines if "no image" in line)


def test_only_accuracies_are_calibrated(questions: list[Question]) -> None:
    matched = match_answers(questions, answers(questions, 4))
    accuracy, chrf = make_report("t", [METRICS["pope"], METRICS["chrf"]], matched).results
    assert accuracy.calibration is not None
    assert accuracy.calibration.count == 24
    assert chrf.calibration is None


def test_a_control_is_compared_on_its_own_questions(report: Report) -> None:
    difference = report.results[0].controls[SWAPPED].differences["accuracy"].interval
    assert difference.value == pytest.approx(100 * 8 / 12)


def test_json_has_no_nan_and_all_answers(report: Report, tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", report)

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["metrics"]["pope"]["scores"]["accuracy"]["value"] == pytest.approx(100 * 20 / 24)
    assert content["metrics"]["pope"]["kinds"]["popular"]["count"] == 16
    assert content["settings"] == {"seed": 1}
    assert len(content["answers"]) == 24
    assert content["answers"][0]["swapped_answer"] == "yes"
    assert content["answers"][23]["swapped_answer"] is None


def test_the_page_is_self_contained_and_shows_the_worst(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report_page(path, report, shown=3)
    page = path.read_text(encoding="utf-8")
    assert page.count("<article>") == 3
    assert page.count("data:image/jpeg;base64,") == 3
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "&lt;thing&gt;" in page and "<thing>" not in page
    drawings = [part.split("</svg>")[0] + "</svg>" for part in page.split("<figure>\n")[1:]]
    assert len(drawings) == 4  # bars and reliability diagram of each metric
    for drawing in drawings:
        assert ET.fromstring(drawing).attrib["role"] == "img"


def test_an_image_that_has_vanished_is_named_on_the_page(report: Report, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.png"):
        path.unlink()
    write_report_page(tmp_path / "page.html", report, shown=1)
    assert "no image" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_bars_of_undefined_scores() -> None:
    drawing = bars("none", {"a": Interval(math.nan, math.nan, math.nan), "b": Interval(120, 110, 130)})
    assert len(ET.fromstring(drawing).findall("{http://www.w3.org/2000/svg}rect")) == 1


def test_controls_of_unknown_questions_are_refused(questions: list[Question]) -> None:
    matched = match_answers(questions, answers(questions, 0))
    with pytest.raises(EvaluationError, match="control"):
        make_report("t", [METRICS["pope"]], matched, {SWAPPED: [AnswerRow("unknown", "yes")]})
    with pytest.raises(EvaluationError):
        make_report("t", [], matched)
