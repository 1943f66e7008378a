"""Calibration: how often answers are correct, compared with the probability that the model gives them.

Source: expected calibration error, Guo et al., 2017, https://arxiv.org/abs/1706.04599
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .answers import Answered
from .metrics.metric import Array

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Answers with similar confidence.

    Attributes:
        low, high: limits of the confidence, 0 to 1.
        count: number of answers.
        confidence: their mean confidence; NaN without answers.
        accuracy: their mean grade; NaN without answers.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width, and the expected calibration error.

    Attributes:
        bins: the bins, by confidence.
        count: number of answers with a confidence.
        error: mean of |accuracy - confidence| over the bins, weighted by their counts; 0 to 1.
    """

    bins: tuple[CalibrationBin, ...]
    count: int
    error: float


def confidence_of(answered: Answered) -> float | None:
    """Return the probability that the model gives its answer, 0 to 1; None if it is unknown.

    With log-probabilities of options it is that of the most probable option among the options.
    """
    row = answered.row
    if row.choice_logprobs:
        best = max(row.choice_logprobs)
        if best == -math.inf:
            return None
        return 1 / math.fsum(math.exp(logprob - best) for logprob in row.choice_logprobs)
    return None if row.logprob is None else min(1.0, math.exp(row.logprob))


def calibrate(answered: Sequence[Answered], grades: Array, bins: int = BINS) -> Calibration | None:
    """Return the calibration of answers; None if none has a log-probability.

    Args:
        answered: the answers.
        grades: grade of each, 0 to 1, from `Metric.grade`; of answers with NaN none is counted.
        bins: number of bins.
    """
    pairs = [
        (confidence, float(grade))
        for confidence, grade in zip(map(confidence_of, answered), grades, strict=True)
        if confidence is not None and not math.isnan(grade)
    ]
    if not pairs:
        return None
    confidences, correct = np.array(pairs).T
    numbers = np.minimum((confidences * bins).astype(int), bins - 1)
    filled = tuple(
        to_bin(number, bins, confidences[numbers == number], correct[numbers == number]) for number in range(bins)
    )
    gaps = math.fsum(part.count * abs(part.accuracy - part.confidence) for part in filled if part.count)
    return Calibration(filled, len(pairs), gaps / len(pairs))


def to_bin(number: int, bins: int, confidences: Array, correct: Array) -> CalibrationBin:
    """Return a bin with its answers."""
    count = len(confidences)
    means = (float(confidences.mean()), float(correct.mean())) if count else (math.nan, math.nan)
    return CalibrationBin(number / bins, (number + 1) / bins, count, *means)
