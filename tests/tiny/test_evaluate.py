"""The evaluation asks through the public chat interface, and its command reports the results."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model import CHINESE, CheckpointError, SettingError, load_sat
from tests.tiny.evaluation_data import ScriptedModel, make_question
from tiny.evaluate import evaluate, main
from tiny.evaluation.generated_dataset import generate_questions
from tiny.evaluation.results import results_of, score, score_table, wilson_interval
from tiny.questions import QUESTION_KINDS
from visualglm.evaluation.report import SWAPPED

# Accuracy of the embedded model in each language, in percent, as stated in the README.
STATED = {"zh": 97.8, "en": 98.8}
QUESTION_COUNT = 264  # 11 of each kind and language

Run = Callable[..., list[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with options on a given model; return the lines that it prints."""

    def run_command(model: Any, *options: object) -> list[str]:
        def load(name: str, **settings: Any) -> Any:
            assert (name, settings) == ("visualglm-tiny", {"device": None, "dtype": None, "quant": None})
            return model

        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, options)])
        main(load)
        return capsys.readouterr().out.splitlines()

    return run_command


@pytest.fixture
def external_folder(tmp_path: Path) -> Path:
    """Return a folder with two questions about two images and one without an image."""
    folder = tmp_path / "external_folder"
    folder.mkdir()
    lines = [{"question": "hello?", "accepted": ["hi"]}]
    for color in ("red", "blue"):
        Image.new("RGB", (40, 40), color).save(folder / f"{color}.png")
        lines.append({"image": f"{color}.png", "question": "它是什么颜色的？", "accepted": [color], "kind": "colour"})
    text = "\n".join(map(json.dumps, lines))
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_each_question_is_asked_with_its_image_and_the_swapped_one() -> None:
    question = make_question(text="它呢？", history=(("有球吗？", "有。"),), language="zh")
    model: Any = ScriptedModel(["right", "right", "wrong"])
    results = results_of(evaluate(model, [question, make_question(image=None, swapped_image=None)]))
    assert [(result.answer, result.swapped_answer) for result in results] == [("right", "wrong"), ("right", None)]
    (own, text, config), (none, _, _), (other, other_text, _) = model.asked
    assert text == other_text == "它呢？"
    assert [conversation.image and conversation.image.getpixel((0, 0)) for conversation in (own, other, none)] == [
        (255, 0, 0),
        (0, 0, 255),
        None,
    ]
    assert [(turn.question, turn.answer) for turn in own.turns] == [("有球吗？", "有。")]
    assert (own.language, config.temperature) == (CHINESE, 0)


def test_without_swapping_each_question_is_asked_once() -> None:
    model: Any = ScriptedModel(["right", "right"])
    results = results_of(evaluate(model, [make_question(), make_question()], swap=False))
    assert [result.swapped_answer for result in results] == [None, None]
    assert len(model.asked) == 2


def test_the_command_prints_a_row_for_each_kind_and_ends_with_the_share_over_all(run: Run) -> None:
    count = 2 * (len(QUESTION_KINDS) + 1)
    expected = [question.answers[0] for question in generate_questions(5, count)]
    lines = run(ScriptedModel([*expected[:-1], "?"]), "--seed", 5, "--count", count, "--no_swap")
    assert [line.split("  ")[0] for line in lines[1 : len(QUESTION_KINDS) + 3]] == [*QUESTION_KINDS, "new pairs", "all"]
    assert lines[-2].startswith("things in descriptions: zh ")
    assert lines[-1] == f"overall {100 * (count - 1) / count:.1f} %"


def test_a_model_that_does_not_look_is_found_out(run: Run) -> None:
    count = 2 * (len(QUESTION_KINDS) + 1)
    questions = list(generate_questions(5, count))
    with_swapped = [question for question in questions if question.swapped_image]
    blind = [question.answers[0] for question in (*questions, *with_swapped)]
    lines = run(ScriptedModel(blind), "--seed", 5, "--count", count)
    marked = [line for line in lines if line.endswith("not looking (zh, en)")]
    assert len(marked) == len(QUESTION_KINDS)  # all kinds but text, and the new pairs
    assert lines[-1] == "overall 100.0 %"


def test_the_command_writes_scores_and_failures(run: Run, tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "failures.html"
    options = ("--count", 3, "--most_things", 2, "--json", results, "--failures", page)
    lines = run(ScriptedModel(["?"] * 6), *options)
    content = json.loads(results.read_text(encoding="utf-8"))
    assert lines[-1] == "overall 0.0 %"
    assert (content["settings"]["most_things"], content["settings"]["json"]) == (2, str(results))
    assert content["machine"]["dtype"] == "float32"
    assert [question["answer"] for question in content["questions"]] == ["?"] * 3
    assert all(1 <= len(question["picture"]["things"]) <= 2 for question in content["questions"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<article>") == 3
    assert "NOT LOOKING" in text  # all answers are wrong, with either image


def test_external_datasets_are_evaluated(run: Run, external_folder: Path, tmp_path: Path) -> None:
    model = ScriptedModel(["Hi!", "red", "yellow", "blue", "blue"])
    lines = run(model, "--scenes", external_folder, "--json", tmp_path / "results.json")
    assert [line.split()[0] for line in lines] == ["kind", "unnamed", "colour", "all", "overall"]
    assert lines[-1] == "overall 66.7 %"
    assert [conversation.image and conversation.image.getpixel((0, 0)) for conversation, _, _ in model.asked] == [
        None,
        (255, 0, 0),
        (0, 0, 255),
        (0, 0, 255),
        (255, 0, 0),
    ]
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["kinds"]["colour"]["zh"]["swapped"] == 50


def end_of(load: Any) -> int | str | None:
    """Return the exit code of the program; argparse raises SystemExit for it."""
    try:
        return main(load)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    "options",
    [
        ("--scenes", "missing"),
        ("--json", "missing/results.json"),
        ("--failures", "."),
        ("--count", "0"),
        ("--most_things", "6"),
        ("--seed", "-1"),
        ("--quant", "3"),
    ],
)
def test_invalid_options_fail_before_the_model_is_loaded(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate", *options])
    code = end_of(lambda *_, **__: pytest.fail("the model was loaded"))
    assert code == (1 if "missing" in options else 2)  # a missing file is a failure, not a wrong setting
    printed = capsys.readouterr()
    assert printed.out == ""
    assert options[0] in printed.err or options[1] in printed.err


@pytest.mark.parametrize("error", [SettingError("There are no such weights."), CheckpointError("There is no model.")])
def test_an_error_for_a_person_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, *, quant: int, **_: Any) -> None:
        assert (name, quant) == ("other", 8)
        raise error

    monkeypatch.setattr(sys, "argv", ["evaluate", "--from_pretrained", "other", "--quant", "8", "--count", "1"])
    assert end_of(fail) == (2 if isinstance(error, SettingError) else 1)
    assert capsys.readouterr() == ("", f"error: {error}\n")


@pytest.mark.slow
def test_the_embedded_model_answers_as_stated() -> None:
    model = load_sat("visualglm-tiny", device="cpu")
    report = evaluate(model, list(generate_questions(4321, QUESTION_COUNT)))
    assert not report.results[0].controls[SWAPPED].is_blind
    results = results_of(report)
    for language, stated in STATED.items():
        reached = score([result for result in results if result.question.language == language])
        least, _ = wilson_interval(round(stated / 100 * reached.count), reached.count)
        assert reached.percent is not None
        assert reached.percent >= least
    rows = score_table(results).items()
    assert not [kind for kind, row in rows for reached in row.values() if reached.looking is False]
