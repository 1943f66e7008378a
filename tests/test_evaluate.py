"""The embedded model answers questions about pictures that it has never seen."""

from collections.abc import Iterator
from typing import Any

import pytest

from model import Piece, load_sat
from tiny.evaluate import Result, accuracy, draw_questions, evaluate, interval, print_table
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


def test_intervals_are_wilsons() -> None:
    low, high = interval([True] * 8 + [False] * 2)
    assert (low, high) == (pytest.approx(49.0, abs=0.1), pytest.approx(94.3, abs=0.1))
    assert interval([True] * 40)[1] == pytest.approx(100)


def test_swapped_pictures_are_asked_about_and_scored_beside() -> None:
    class Blind:
        """Says the same whatever it sees."""

        def stream_answer(self, conversation: Any, question: str, config: Any) -> Iterator[Piece]:
            seen.append(conversation.image)
            yield Piece("There is one object in the picture.", "stop")

    seen: list[Any] = []
    results = evaluate(Blind(), seed=3, count=18, swap=True)
    assert len(seen) == 18 + 16  # two questions have no picture
    assert [result.swapped_answer is None for result in results] == [r.scene is None for r in results]
    assert all(r.right == r.right_when_swapped for r in results if r.scene is not None)


@pytest.mark.slow
def test_the_embedded_model_is_right_in_each_language() -> None:
    results = evaluate(load_sat("visualglm-tiny", device="cpu"), seed=4321, count=540, swap=True)
    for language in ("zh", "en"):
        own = [result for result in results if result.example.language == language]
        assert accuracy(own) >= PROMISED
        swapped = [result.right_when_swapped for result in own if result.scene is not None]
        assert 100 * sum(map(bool, swapped)) / len(swapped) <= PROMISED - 30
