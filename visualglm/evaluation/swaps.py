"""The control with swapped images: each question is asked about another image that has another accepted answer.

A model that looks at its images answers worse then. Only pairs whose answers are known to differ are used, because
otherwise the original answer may be right for the other image, too.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .bootstrap import RESAMPLES, SEED, Difference, compare_runs
from .data.question import ImageReference, Question
from .metrics.exact import normalize_text
from .metrics.metric import Array, Metric

RANDOM_TRIES = 20  # before all candidates are listed


@dataclass(frozen=True)
class SwappedImages:
    """The questions to ask about another image.

    Attributes:
        images: the other image by key of the question. Questions without one are left out of the control.
        same_question: number of pairs for which the same question is asked about the other image in the data.
        total: number of all questions with an image and an accepted answer.
    """

    images: dict[str, ImageReference]
    same_question: int
    total: int

    @property
    def count(self) -> int:
        """Return the number of pairs."""
        return len(self.images)


@dataclass(frozen=True)
class ControlResult:
    """The comparison of answers about the own and about another image, or about none.

    Attributes:
        pairs: number of questions that were compared.
        differences: own minus control, by score.
        is_blind: whether the interval of the main score's difference contains 0 or lies on its wrong side: no sign
            that the model uses the image.
    """

    pairs: int
    differences: dict[str, Difference]
    is_blind: bool


def choose_swapped_images(
    questions: Iterable[Question], seed: int = SEED, *, same_question_only: bool = True
) -> SwappedImages:
    """Choose another image for each question, with another accepted answer.

    Args:
        questions: all questions.
        seed: seed of the choice.
        same_question_only: use only images about which the data asks the same question, with none of the same accepted
            answers. Otherwise, for a question that is asked about no other such image, use the image of another
            question of its kind, with none of the same accepted answers; its true answer is then unknown.
    """
    candidates = [
        Candidate(question, accepted_of(question)) for question in questions if question.image and question.answers
    ]
    rng = random.Random(seed)
    by_text = group_by(candidates, [normalize_text(candidate.question.text) for candidate in candidates])
    by_kind = group_by(candidates, [candidate.question.kind for candidate in candidates])
    images: dict[str, ImageReference] = {}
    same_question = 0
    for candidate in candidates:
        question = candidate.question
        other = pick_other(candidate, by_text[normalize_text(question.text)], rng)
        same_question += other is not None
        if other is None and not same_question_only:
            other = pick_other(candidate, by_kind[question.kind], rng)
        if other is not None and other.image is not None:
            images[question.key] = other.image
    return SwappedImages(images, same_question, len(candidates))


class Candidate(NamedTuple):
    """A question with its accepted answers, normalized."""

    question: Question
    accepted: frozenset[str]

    def differs(self, other: "Candidate") -> bool:
        """Return whether two questions are about different images and share no accepted answer."""
        return self.question.group != other.question.group and self.accepted.isdisjoint(other.accepted)


def accepted_of(question: Question) -> frozenset[str]:
    """Return the accepted answers of a question, normalized."""
    return frozenset(normalize_text(text) for text in question.accepted_texts())


def group_by(candidates: Sequence[Candidate], names: Sequence[str]) -> dict[str, list[Candidate]]:
    """Return the candidates by name."""
    groups: dict[str, list[Candidate]] = {}
    for candidate, name in zip(candidates, names, strict=True):
        groups.setdefault(name, []).append(candidate)
    return groups


def pick_other(own: Candidate, candidates: Sequence[Candidate], rng: random.Random) -> Question | None:
    """Return a random candidate with another image and other accepted answers; None if there is none."""
    for _ in range(RANDOM_TRIES):
        other = rng.choice(candidates)
        if own.differs(other):
            return other.question
    usable = [other for other in candidates if own.differs(other)]
    return rng.choice(usable).question if usable else None


def compare_with_control(
    metric: Metric,
    own: Array,
    control: Array,
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> ControlResult:
    """Compare the answers about the own images with the answers of a control.

    Args:
        metric: the metric.
        own, control: statistics of the same questions, [N, K].
        clusters, resamples, seed: see `bootstrap.confidence_intervals`.

    Raises:
        EvaluationError: there are no answers, or the numbers of answers differ.
    """
    differences = compare_runs(metric, own, control, clusters, resamples=resamples, seed=seed)
    interval = differences[metric.main].interval
    is_better = interval.high < 0 if metric.lower_is_better else interval.low > 0
    return ControlResult(len(own), differences, not is_better)
