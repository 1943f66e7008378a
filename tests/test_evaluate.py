"""The embedded model answers questions about pictures that it has never seen."""

import pytest

from model import load_sat
from tiny.evaluate import Result, accuracy, draw_questions, evaluate, print_table
from tiny.questions import QUESTION_KINDS

PROMISED = 85


def test_questions_are_of_every_kind_and_language_and_repeat_with_the_seed() -> None:
    count = 2 * len(QUESTION_KINDS)
    questions = list(draw_questions(7, count, 3))
    assert {(example.kind, example.language) for _, example in questions} == {
        (kind, language) for kind in QUESTION_KINDS for language in ("zh", "en")
    }
    assert questions == list(draw_questions(7, count, 3))
    assert questions != list(draw_questions(8, count, 3))
    assert all((scene is None) == (example.kind == "text") for scene, example in questions)


def test_the_table_ends_with_the_share_over_all(capsys: pytest.CaptureFixture[str]) -> None:
    scene, example = next(draw_questions(7, 1, 3))
    print_table([Result(example, scene, example.answer), Result(example, scene, "?")])
    assert capsys.readouterr().out.splitlines()[-1] == "overall 50.0 %"


@pytest.mark.slow
def test_the_embedded_model_is_right_in_each_language() -> None:
    results = evaluate(load_sat("visualglm-tiny", device="cpu"), seed=4321, count=540)
    for language in ("zh", "en"):
        assert accuracy([result for result in results if result.example.language == language]) >= PROMISED
