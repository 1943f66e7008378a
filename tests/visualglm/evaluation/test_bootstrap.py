"""Confidence intervals and comparisons resample images, with a fixed seed."""

import math

import numpy as np
import pytest

from tests.visualglm.evaluation.helpers import answered
from visualglm.evaluation.answers import Answered
from visualglm.evaluation.bootstrap import (
    binomial_tail,
    clusters_of,
    compare_runs,
    confidence_intervals,
    is_correct,
    mcnemar,
    resample,
    sum_clusters,
)
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.metrics import EXACT_MATCH, METRICS, POPE


def run(rights: list[bool], per_image: int = 1) -> list[Answered]:
    return [
        answered("yes" if right else "no", "yes", key=str(number), group=f"image {number // per_image}")
        for number, right in enumerate(rights)
    ]


def interval_of(rows: list[Answered], seed: int = 0) -> tuple[float, float]:
    statistics = EXACT_MATCH.measure(rows)
    interval = confidence_intervals(EXACT_MATCH, statistics, clusters_of(rows), seed=seed)["exact_match"]
    return interval.low, interval.high


def test_the_interval_is_that_of_a_proportion() -> None:
    rng = np.random.default_rng(1)
    rows = run((rng.random(400) < 0.7).tolist())
    low, high = interval_of(rows)
    value = 100 * sum(row.text == "yes" for row in rows) / 400
    deviation = math.sqrt(value * (100 - value) / 400)
    assert low == pytest.approx(value - 1.96 * deviation, abs=0.7)
    assert high == pytest.approx(value + 1.96 * deviation, abs=0.7)


def test_the_seed_fixes_the_interval() -> None:
    rows = run([True, False, True, True, False] * 9)
    assert interval_of(rows) == interval_of(rows)
    assert interval_of(rows) != interval_of(rows, seed=1)


def test_questions_about_one_image_widen_the_interval() -> None:
    rights = [right for right in [True, False] * 50 for _ in range(4)]
    low, high = interval_of(run(rights))
    clustered_low, clustered_high = interval_of(run(rights, per_image=4))
    assert (clustered_high - clustered_low) / (high - low) == pytest.approx(2, abs=0.3)


def test_one_image_gives_an_interval_of_one_point() -> None:
    assert interval_of(run([True, False], per_image=2)) == (50, 50)


def test_sums_of_clusters() -> None:
    sums = sum_clusters(np.array([[1.0, 2], [3, 4], [5, 6]]), ["a", "b", "a"])
    assert sums.tolist() == [[6, 8], [3, 4]]
    assert {tuple(row) for row in resample(sums, 50, 0).tolist()} == {(12, 16), (9, 12), (6, 8)}


def test_scores_that_are_no_means_have_intervals() -> None:
    rows = [
        answered(text, label, key=f"{text}{label}{n}") for n in range(9) for text in ("yes", "no") for label in ("yes",)
    ]
    intervals = confidence_intervals(POPE, POPE.measure(rows), clusters_of(rows))
    assert intervals["precision"].value == intervals["precision"].low == 100
    assert intervals["recall"].low < 50 < intervals["recall"].high


def test_undefined_scores_have_no_interval() -> None:
    rows = [answered("no", "no", key=str(number)) for number in range(4)]
    precision = confidence_intervals(POPE, POPE.measure(rows), clusters_of(rows))["precision"]
    assert all(map(math.isnan, (precision.value, precision.low, precision.high)))


def test_bleu_has_an_interval() -> None:
    texts = ("a red ball on the left side", "two dogs run on the grass", "a cat", "a big green box here")
    rows = [answered(text, f"{text} today", key=str(number)) for number, text in enumerate(texts)]
    bleu = METRICS["bleu"]
    interval = confidence_intervals(bleu, bleu.measure(rows), clusters_of(rows))["bleu_1"]
    assert 0 < interval.low < interval.value < interval.high <= 100


def test_paired_runs_have_a_narrower_difference() -> None:
    rng = np.random.default_rng(2)
    second = (rng.random(300) < 0.6).tolist()
    first = [right or bool(luck < 0.2) for right, luck in zip(second, rng.random(300), strict=True)]
    rows, others = run(first), run(second)
    statistics = [EXACT_MATCH.measure(part) for part in (rows, others)]
    difference = compare_runs(EXACT_MATCH, *statistics, clusters_of(rows))["exact_match"]
    widths = [high - low for high, low in (interval_of(part)[::-1] for part in (rows, others))]
    assert difference.interval.low > 0
    assert difference.p_value < 0.01
    assert difference.interval.high - difference.interval.low < min(widths)


def test_equal_runs_do_not_differ() -> None:
    rows = run([True, False] * 20)
    statistics = EXACT_MATCH.measure(rows)
    difference = compare_runs(EXACT_MATCH, statistics, statistics, clusters_of(rows))["exact_match"]
    assert (difference.interval.low, difference.interval.high, difference.p_value) == (0, 0, 1)


def test_runs_of_different_length_are_refused() -> None:
    rows = run([True, False])
    statistics = EXACT_MATCH.measure(rows)
    with pytest.raises(EvaluationError):
        compare_runs(EXACT_MATCH, statistics, statistics[:1], clusters_of(rows))
    with pytest.raises(EvaluationError):
        mcnemar([True], [])
    with pytest.raises(EvaluationError):
        confidence_intervals(EXACT_MATCH, statistics[:0], [])


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # 9 and 1 discordant questions: 2 * (1 + 10) / 2**10
    result = mcnemar([True] * 9 + [False] + [True] * 5, [False] * 9 + [True] + [True] * 5)
    assert (result.first_only, result.second_only) == (9, 1)
    assert result.p_value == pytest.approx(22 / 1024, rel=1e-12)
    assert mcnemar([True], [True]).p_value == 1


def test_the_binomial_tail_of_many_tosses() -> None:
    exact = sum(math.comb(2000, heads) for heads in range(951)) / 2**2000
    assert binomial_tail(950, 2000) == pytest.approx(exact, rel=1e-9)


def test_grades_of_one_half_are_correct() -> None:
    assert is_correct(np.array([0, 0.3, 0.5, 1, math.nan])) == [False, False, True, True, False]
