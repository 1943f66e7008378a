"""Scores, their confidence intervals, and the control with swapped images."""

import pytest

from tests.tiny.evaluation_data import count_words, make_question, make_results
from tiny.evaluation.results import Result, count_things, score, score_table, wilson_interval
from tiny.grading import ThingScore


def test_intervals_are_wilsons() -> None:
    assert wilson_interval(8, 10) == (pytest.approx(49.0, abs=0.1), pytest.approx(94.3, abs=0.1))
    assert wilson_interval(0, 20) == (0, pytest.approx(16.1, abs=0.1))
    assert wilson_interval(40, 40) == (pytest.approx(91.2, abs=0.1), 100)


def test_a_result_is_graded_by_its_question() -> None:
    result = Result(make_question(), "right", "wrong")
    assert (result.correct, result.correct_when_swapped) == (True, False)
    assert Result(make_question(), "wrong").correct_when_swapped is None


@pytest.mark.parametrize(
    ("right", "swapped_right", "looking"), [(10, 0, True), (10, 7, True), (10, 8, False), (2, 0, False), (0, 10, False)]
)
def test_a_small_drop_with_swapped_images_means_not_looking(right: int, swapped_right: int, looking: bool) -> None:
    result = score(make_results(right, 10 - right, swapped_right))
    assert (result.count, result.right, result.percent, result.swapped) == (
        10,
        right,
        10 * right,
        10 * swapped_right,
    )
    assert result.looking is looking


def test_looking_is_based_on_questions_with_both_images() -> None:
    without = make_results(10, 0, None)
    assert (score(without).swapped, score(without).looking) == (None, None)
    both = score(without + make_results(2, 8, 0))
    assert (both.percent, both.swapped, both.looking) == (60, 0, False)


def test_nothing_has_no_score() -> None:
    nothing = score([])
    assert (nothing.count, nothing.percent, nothing.low, nothing.swapped, nothing.looking) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_the_table_has_kinds_in_order_and_both_languages() -> None:
    results = [
        *make_results(1, 1, kind="where", language="en"),
        *make_results(3, 0, kind="colour", language="en"),
        *make_results(0, 1, kind="where", language="zh"),
    ]
    table = score_table(results)
    assert list(table) == ["where", "colour"]
    counts = {(kind, code): (cell.right, cell.count) for kind, row in table.items() for code, cell in row.items()}
    assert counts == {
        ("where", "zh"): (0, 1),
        ("where", "en"): (1, 2),
        ("colour", "zh"): (0, 0),
        ("colour", "en"): (3, 3),
    }


def test_things_are_counted_by_language_and_only_in_descriptions() -> None:
    results = [
        *make_results(2, 1, language="zh", score_things=count_words),
        *make_results(0, 2, language="en", score_things=count_words),
        *make_results(5, 5, language="en"),
    ]
    assert count_things(results) == {"zh": ThingScore(2, 1, 3), "en": ThingScore(0, 2, 2)}
    assert count_things(make_results(1, 0)) == {}
