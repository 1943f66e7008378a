"""Scores of several sampling seeds: mean, standard deviation, and the t-interval of the mean."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# 97.5 % quantiles of Student's t-distribution with 1 to 10 degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Interval:
    """A score with its confidence interval, in percent.

    Attributes:
        value: the score of all answers.
        low, high: limits of the interval; NaN if the score is undefined.
    """

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class SeedSummary:
    """A score over several seeds, in percent.

    Attributes:
        values: the score of each seed.
        deviation: standard deviation of the seeds.
        mean: mean with the 95 % t-interval of the seeds, for the same questions. It does not contain the uncertainty
            that comes from the choice of the questions.
    """

    values: tuple[float, ...]
    deviation: float
    mean: Interval


def summarize_seeds(scores: Sequence[Mapping[str, float]]) -> dict[str, SeedSummary]:
    """Return the summary of each score.

    Args:
        scores: the scores of each seed, by name.
    """
    names = scores[0] if scores else {}
    return {name: summarize_values([each[name] for each in scores]) for name in names}


def summarize_values(values: Sequence[float]) -> SeedSummary:
    """Return the summary of a score; with one seed, deviation and interval are NaN."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return SeedSummary(tuple(values), math.nan, Interval(mean, math.nan, math.nan))
    deviation = statistics.stdev(values)
    half = t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return SeedSummary(tuple(values), deviation, Interval(mean, mean - half, mean + half))


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of the t-distribution; above ten degrees by its expansion.

    Source: Abramowitz and Stegun, 26.7.5.
    """
    if degrees <= len(T_QUANTILES):
        return T_QUANTILES[degrees - 1]
    normal = statistics.NormalDist().inv_cdf(0.975)
    first = (normal**3 + normal) / (4 * degrees)
    second = (5 * normal**5 + 16 * normal**3 + 3 * normal) / (96 * degrees**2)
    third = (3 * normal**7 + 19 * normal**5 + 17 * normal**3 - 15 * normal) / (384 * degrees**3)
    return normal + first + second + third
