"""Metrics as sums: each answer gives a row of numbers, and the scores are computed from the sums of these rows.

This holds for averages as well as for precision, BLEU or pairs of questions, and makes resampling cheap.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ..answers import Answered
from ..errors import EvaluationError

Array = npt.NDArray[np.float64]
Scores = dict[str, Array]


@dataclass(frozen=True)
class Metric:
    """A metric with one or more scores, in percent.

    Attributes:
        name: its key in `METRICS`.
        measure: maps N answers to their statistics [N, K].
        summarize: maps sums of statistics [..., K] to scores by name, each [...]; NaN where a score is undefined.
        main: name of the score that grades a single answer.
        lower_is_better: whether a low main score is a good one.
        is_accuracy: whether grades tell how correct an answer is, as calibration requires.
    """

    name: str
    measure: Callable[[Sequence[Answered]], Array]
    summarize: Callable[[Array], Scores]
    main: str
    lower_is_better: bool = False
    is_accuracy: bool = False

    def grade(self, statistics: Array) -> Array:
        """Return the quality of each answer [N], from 0 to about 1; NaN where the score is undefined.

        Args:
            statistics: from `measure`.
        """
        scores: Array = self.summarize(statistics)[self.main] / 100
        return np.asarray(1 - scores if self.lower_is_better else scores, np.float64)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return a quotient in percent, NaN for a denominator of 0."""
    numerator, denominator = np.broadcast_arrays(100.0 * numerator, denominator)
    quotient: Array = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def mean_metric(name: str, score: Callable[[Answered], float]) -> Metric:
    """Return a metric that is the mean accuracy of the answers, each from 0 to 1."""
    metric = mean_of_all(name, lambda answered: [score(answer) for answer in answered])
    return replace(metric, is_accuracy=True)


def mean_of_all(name: str, score: Callable[[Sequence[Answered]], Sequence[float]]) -> Metric:
    """Return a metric that is the mean of scores that are computed together."""

    def measure(answered: Sequence[Answered]) -> Array:
        if not answered:
            return np.zeros((0, 2))
        return np.stack([np.asarray(score(answered), np.float64), np.ones(len(answered))], axis=1)

    return Metric(name, measure, lambda sums: {name: ratio(sums[..., 0], sums[..., 1])}, main=name)


def total(metric: Metric, statistics: Array) -> dict[str, float]:
    """Return the scores of all answers together."""
    return {name: float(value) for name, value in metric.summarize(statistics.sum(axis=0)).items()}


def score(metric: Metric, answered: Sequence[Answered]) -> dict[str, float]:
    """Return the scores of answers, in percent."""
    return total(metric, metric.measure(answered))


def score_kinds(metric: Metric, answered: Sequence[Answered], statistics: Array) -> Mapping[str, dict[str, float]]:
    """Return the scores of each kind of question, in the order of the questions."""
    kinds = np.array([answer.question.kind for answer in answered])
    return {kind: total(metric, statistics[kinds == kind]) for kind in dict.fromkeys(kinds.tolist())}


def import_extra(name: str) -> Any:
    """Import a module of the extra `evaluate`.

    Raises:
        EvaluationError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f'This metric needs {error.name}, which is not installed. Install it: pip install "visualglm[evaluate]"'
        ) from error
