"""Questions with their judges, how they were answered, and the statistics of many of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tiny.grading import ThingScore
from tiny.words.sentences import Language

MIN_DROP = 30  # points that a score must lose with other pictures to show that the model looks at them


@dataclass(frozen=True)
class ImageSource:
    """A picture that is made when it is asked about.

    Attributes:
        source: what to write down of it: a scene as JSON has it, or a path.
        load: returns it as RGB.
    """

    source: Any
    load: Callable[[], Image.Image]


@dataclass(frozen=True)
class Question:
    """One question, wherever it comes from.

    Attributes:
        kind: the row of the table that it counts in.   language: "zh" or "en".
        history: earlier (question, answer) pairs, oldest first.
        text: the question.
        expected: answers that are right; `is_correct` may take others too.
        is_right: judges an answer.
        image: what it is about, None for talk without one.
        swapped_image: a picture to which the answer should be another; None where there is none.
        score_things: counts the things that an answer names, for a description; None for others.
    """

    kind: str
    language: Language
    history: tuple[tuple[str, str], ...]
    text: str
    expected: tuple[str, ...]
    is_correct: Callable[[str], bool]
    image: ImageSource | None = None
    swapped_image: ImageSource | None = None
    score_things: Callable[[str], ThingScore] | None = None


@dataclass(frozen=True)
class Result:
    """One question as it was answered: about its picture, and about the swapped one (None where it was not asked)."""

    question: Question
    answer: str
    swapped_answer: str | None = None

    @property
    def correct(self) -> bool:
        return self.question.is_correct(self.answer)

    @property
    def correct_when_swapped(self) -> bool | None:
        return None if self.swapped_answer is None else self.question.is_correct(self.swapped_answer)


@dataclass(frozen=True)
class Score:
    """How many of several questions were answered rightly.

    Attributes:
        count, right: questions, and those answered rightly.
        percent: the share that is right; None of no question, as the interval.
        low, high: the 95 % interval of `percent`.
        swapped: the share that is right about swapped pictures; None where none was asked about.
        looking: whether the share falls by at least LEAST_FALL points with the pictures swapped; None likewise.
    """

    count: int
    right: int
    percent: float | None
    low: float | None
    high: float | None
    swapped: float | None
    looking: bool | None


def percentage(verdicts: list[bool]) -> float | None:
    """Return the percentage that is true; None of nothing."""
    return 100 * sum(verdicts) / len(verdicts) if verdicts else None


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a percentage (Wilson's, https://www.jstor.org/stable/2276774)."""
    z = 1.96
    p = correct / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def score(results: list[Result]) -> Score:
    """Return how many are right; only what was asked about both pictures tells whether the model looks."""
    verdicts = [result.correct for result in results]
    pairs = [(result.correct, result.correct_when_swapped) for result in results]
    both = [(correct, other) for correct, other in pairs if other is not None]
    own, swapped = percentage([correct for correct, _ in both]), percentage([other for _, other in both])
    looking = None if own is None or swapped is None else own - swapped >= MIN_DROP
    low, high = wilson_interval(sum(verdicts), len(verdicts)) if verdicts else (None, None)
    return Score(len(verdicts), sum(verdicts), percentage(verdicts), low, high, swapped, looking)


def score_table(results: list[Result]) -> dict[str, dict[Language, Score]]:
    """Return the scores by kind, in the order in which the kinds were asked, and language."""
    kinds = dict.fromkeys(result.question.kind for result in results)
    groups: dict[str, dict[Language, list[Result]]] = {kind: {"zh": [], "en": []} for kind in kinds}
    for result in results:
        groups[result.question.kind][result.question.language].append(result)
    return {kind: {language: score(group) for language, group in row.items()} for kind, row in groups.items()}


def count_things(results: list[Result]) -> dict[Language, ThingScore]:
    """Return the things that the descriptions of each language name rightly, wrongly and not at all."""
    totals: dict[Language, ThingScore] = {}
    for result in results:
        if result.question.score_things is None:
            continue
        more, language = result.question.score_things(result.answer), result.question.language
        so_far = totals.get(language, ThingScore(0, 0, 0))
        totals[language] = ThingScore(
            so_far.right + more.right, so_far.wrong + more.wrong, so_far.missing + more.missing
        )
    return totals
