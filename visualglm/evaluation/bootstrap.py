"""Confidence intervals and paired comparisons by resampling clusters: all questions about one image together.

Answers about one image are not independent. Resampling images instead of answers gives intervals of the right width.
Source: cluster bootstrap, Field and Welsh, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.seeds import Interval

from .answers import Answered
from .errors import EvaluationError
from .metrics.metric import Array, Metric, Scores

RESAMPLES = 1000
SEED = 0
LEVEL = 95  # percent of the resampled scores that an interval contains


@dataclass(frozen=True)
class Difference:
    """The difference of two runs in a score: first minus second.

    Attributes:
        interval: the difference with its confidence interval, in percentage points.
        p_value: two-sided p-value of the bootstrap.
    """

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two runs on the same questions.

    Attributes:
        first_only, second_only: number of questions that only one of the runs answers correctly.
        p_value: two-sided p-value. It treats questions as independent; the bootstrap does not.
    """

    first_only: int
    second_only: int
    p_value: float


def clusters_of(answered: Sequence[Answered]) -> list[str]:
    """Return the cluster of each answer: its image."""
    return [answer.question.cluster for answer in answered]


def sum_clusters(statistics: Array, clusters: Sequence[str]) -> Array:
    """Return the sums of statistics [N, K] over each cluster, [C, K]."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(numbers), statistics.shape[1]))
    np.add.at(sums, [numbers[cluster] for cluster in clusters], statistics)
    return sums


def resample(sums: Array, resamples: int, seed: int) -> Array:
    """Return the totals of random samples of clusters, drawn with replacement, [R, K].

    The samples depend only on the seed and the number of clusters, so that two runs are resampled alike.

    Args:
        sums: sums of each cluster [C, K].
        resamples: number R of samples.
        seed: seed of the generator.
    """
    rng = np.random.default_rng(seed)
    count = len(sums)
    totals = np.zeros((resamples, sums.shape[1]))
    for total in totals:
        total[:] = np.bincount(rng.integers(count, size=count), minlength=count) @ sums
    return totals


def to_interval(value: float, resampled: Array) -> Interval:
    """Return the percentile interval of resampled scores; undefined ones are left out."""
    defined = resampled[~np.isnan(resampled)]
    if math.isnan(value) or not defined.size:
        return Interval(value, math.nan, math.nan)
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def confidence_intervals(
    metric: Metric, statistics: Array, clusters: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Return each score of a metric with its confidence interval.

    Args:
        metric: the metric.
        statistics: from `metric.measure`, [N, K].
        clusters: the cluster of each answer; see `clusters_of`.
        resamples: number of bootstrap samples.
        seed: seed of the samples.

    Raises:
        EvaluationError: there are no answers.
    """
    if not len(statistics):
        raise EvaluationError("There are no answers. Give at least one question.")
    sums = sum_clusters(statistics, clusters)
    scores, resampled = metric.summarize(sums.sum(axis=0)), metric.summarize(resample(sums, resamples, seed))
    return {name: to_interval(float(scores[name]), resampled[name]) for name in scores}


def compare_runs(
    metric: Metric,
    first: Array,
    second: Array,
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Return the difference of two runs in each score, by a paired cluster bootstrap.

    Args:
        metric: the metric.
        first, second: statistics of both runs for the same questions, [N, K].
        clusters, resamples, seed: see `confidence_intervals`.

    Raises:
        EvaluationError: there are no answers, or the numbers of answers differ.
    """
    if len(first) != len(second) or not len(first):
        raise EvaluationError(f"The runs have {len(first)} and {len(second)} answers. Compare answers to one file.")
    sums = [sum_clusters(statistics, clusters) for statistics in (first, second)]
    own, other = (metric.summarize(part.sum(axis=0)) for part in sums)
    resampled = [metric.summarize(resample(part, resamples, seed)) for part in sums]
    return {name: to_difference(float(own[name] - other[name]), *resampled, name=name) for name in own}


def to_difference(value: float, first: Scores, second: Scores, *, name: str) -> Difference:
    """Return the difference in a score with interval and p-value, from the resampled scores of both runs."""
    differences = first[name] - second[name]
    defined = differences[~np.isnan(differences)]
    tails = [int((defined <= 0).sum()) + 1, int((defined >= 0).sum()) + 1]
    p_value = min(1.0, 2 * min(tails) / (len(defined) + 1)) if len(defined) and not math.isnan(value) else math.nan
    return Difference(to_interval(value, differences), p_value)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Test whether two runs answer equally many of the same questions correctly (exact binomial test).

    Args:
        first, second: whether each run answers each question correctly.

    Raises:
        EvaluationError: the numbers of answers differ.
    """
    if len(first) != len(second):
        raise EvaluationError(f"The runs have {len(first)} and {len(second)} answers. Compare answers to one file.")
    pairs = list(zip(first, second, strict=True))
    first_only, second_only = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    count, fewer = first_only + second_only, min(first_only, second_only)
    return McNemar(first_only, second_only, min(1.0, 2 * binomial_tail(fewer, count)))


def binomial_tail(limit: int, count: int) -> float:
    """Return the probability of at most `limit` heads in `count` tosses of a fair coin."""
    logs = [
        math.lgamma(count + 1) - math.lgamma(heads + 1) - math.lgamma(count - heads + 1) - count * math.log(2)
        for heads in range(limit + 1)
    ]
    return math.fsum(map(math.exp, logs))


def is_correct(grades: Array) -> list[bool]:
    """Return whether each grade of `Metric.grade` counts as correct: at least one half."""
    return [bool(grade >= 0.5) for grade in grades]
