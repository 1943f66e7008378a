"""The results of a report by question, and statistics over results by kind and language."""

import math
from dataclasses import dataclass

from tiny.evaluation.graded_question import GradedQuestion
from tiny.grading import ThingScore
from tiny.words.sentences import Language
from visualglm.evaluation.report import SWAPPED, Report

MIN_DROP = 30  # percentage points that swapping images must cost if the model uses the image


@dataclass(frozen=True)
class Result:
    """A question's answer, and the answer for the swapped image (None if that was not asked)."""

    question: GradedQuestion
    answer: str
    swapped_answer: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer is correct."""
        return self.question.is_correct(self.answer)

    @property
    def correct_when_swapped(self) -> bool | None:
        """Whether the swapped image's answer would be correct for the original image; None if not asked."""
        return None if self.swapped_answer is None else self.question.is_correct(self.swapped_answer)


def results_of(report: Report) -> list[Result]:
    """Return the result of each question of a report, in the order of the questions."""
    swapped = report.control_answers.get(SWAPPED, {})
    return [
        Result(answer.question, answer.text, swapped.get(answer.question.key))
        for answer in report.answered
        if isinstance(answer.question, GradedQuestion)
    ]


@dataclass(frozen=True)
class Score:
    """Accuracy over several questions.

    Attributes:
        count, right: number of questions, and of correct answers.
        percent: accuracy in percent; None without questions, as are `low` and `high`.
        low, high: 95 % confidence interval of `percent`.
        swapped: accuracy in percent with swapped images; None if none were asked.
        looking: whether swapping lowers the accuracy by at least MIN_DROP points; None if none were asked.
    """

    count: int
    right: int
    percent: float | None
    low: float | None
    high: float | None
    swapped: float | None
    looking: bool | None


def percentage(verdicts: list[bool]) -> float | None:
    """Return the percentage of true values; None for an empty list."""
    return 100 * sum(verdicts) / len(verdicts) if verdicts else None


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a percentage (https://www.jstor.org/stable/2276774)."""
    z = 1.96
    p = correct / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def score(results: list[Result]) -> Score:
    """Score results; `looking` is based on the questions that were asked with both images."""
    verdicts = [result.correct for result in results]
    pairs = [(result.correct, result.correct_when_swapped) for result in results]
    both = [(correct, other) for correct, other in pairs if other is not None]
    own, swapped = percentage([correct for correct, _ in both]), percentage([other for _, other in both])
    looking = None if own is None or swapped is None else own - swapped >= MIN_DROP
    low, high = wilson_interval(sum(verdicts), len(verdicts)) if verdicts else (None, None)
    return Score(len(verdicts), sum(verdicts), percentage(verdicts), low, high, swapped, looking)


def score_table(results: list[Result]) -> dict[str, dict[Language, Score]]:
    """Return the scores by kind, in the order of the questions, and language."""
    kinds = dict.fromkeys(result.question.kind for result in results)
    groups: dict[str, dict[Language, list[Result]]] = {kind: {"zh": [], "en": []} for kind in kinds}
    for result in results:
        groups[result.question.kind][result.question.language].append(result)
    return {kind: {language: score(group) for language, group in row.items()} for kind, row in groups.items()}


def count_things(results: list[Result]) -> dict[Language, ThingScore]:
    """Return the totals of things that descriptions name correctly, wrongly and not at all, by language."""
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
