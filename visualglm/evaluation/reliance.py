"""Calibration by reliance: how often answers are right, by how much less likely they are without their images.

The reliance of an answer is its log-probability about its image, minus that about a plain image of the same mean color.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageStat

from .answers import Answered, AnswerRow
from .data.question import ImageReference, Question
from .metrics.metric import Array

LIMITS = (-math.inf, 0.0, math.log(2), 2.0, 5.0, 10.0, math.inf)  # of the groups, in nats
PLAIN = "plain"  # the condition in which a question is asked about a plain image
PLAIN_SIDE = 16  # pixels


@dataclass(frozen=True)
class PlainImage(ImageReference):
    """An image without content, of the mean color of another one."""

    original: ImageReference

    def source(self) -> Image.Image:
        mean = ImageStat.Stat(self.original.load().convert("RGB")).mean
        return Image.new("RGB", (PLAIN_SIDE, PLAIN_SIDE), (round(mean[0]), round(mean[1]), round(mean[2])))


@dataclass(frozen=True)
class RelianceGroup:
    """Answers of similar reliance.

    Attributes:
        low, high: limits of the reliance in nats; None without a limit.
        count: number of answers.
        accuracy: their mean grade; NaN without answers.
    """

    low: float | None
    high: float | None
    count: int
    accuracy: float


@dataclass(frozen=True)
class RelianceCalibration:
    """Groups of answers by reliance.

    Attributes:
        groups: the groups, by reliance.
        auroc: area under the ROC curve: how often a right answer relies more on its image than a wrong one, 0 to 1;
            NaN if all are right or all are wrong.
    """

    groups: tuple[RelianceGroup, ...]
    auroc: float


def plain_images(questions: Sequence[Question]) -> dict[str, ImageReference | None]:
    """Return a plain image for each question with an image, by the question's key."""
    return {one.key: PlainImage(f"{PLAIN} {one.image.name}", one.image) for one in questions if one.image is not None}


def to_reliances(own: Sequence[AnswerRow], plain: Sequence[AnswerRow]) -> dict[str, float]:
    """Return the reliance of answers by key, from rows whose only option is the answer, about both images."""
    without = {row.key: row.choice_logprobs[0] for row in plain}
    return {row.key: row.choice_logprobs[0] - without[row.key] for row in own if row.key in without}


def calibrate_reliance(
    answered: Sequence[Answered], grades: Array, reliances: Mapping[str, float]
) -> RelianceCalibration | None:
    """Group answers by their reliance; return None if none has one.

    Args:
        answered: the answers.
        grades: grade of each, 0 to 1, from `Metric.grade`; answers with NaN are not counted.
        reliances: reliance by key of the question, in nats.
    """
    pairs = [
        (reliances[one.question.key], float(grade))
        for one, grade in zip(answered, grades, strict=True)
        if one.question.key in reliances and not math.isnan(grade)
    ]
    if not pairs:
        return None
    values, correct = np.array(pairs).T
    groups = tuple(to_group(low, high, correct[(values >= low) & (values < high)]) for low, high in pairwise(LIMITS))
    return RelianceCalibration(groups, area_under_roc(values[correct >= 1], values[correct < 1]))


def to_group(low: float, high: float, correct: Array) -> RelianceGroup:
    """Return a group with its answers."""
    low_limit, high_limit = (None if math.isinf(limit) else limit for limit in (low, high))
    return RelianceGroup(low_limit, high_limit, len(correct), float(correct.mean()) if len(correct) else math.nan)


def area_under_roc(right: Array, wrong: Array) -> float:
    """Return how often a number of `right` is above one of `wrong`; half of equal pairs; NaN without pairs."""
    if not len(right) or not len(wrong):
        return math.nan
    differences = right[:, None] - wrong
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())
