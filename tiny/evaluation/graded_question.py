"""A question whose answers are graded by their meaning, and the metric that grades them."""

from collections.abc import Callable
from dataclasses import dataclass

from tiny.grading import ThingScore
from tiny.words.sentences import Language
from visualglm.evaluation.answers import Answered
from visualglm.evaluation.data import ImageReference, Question
from visualglm.evaluation.metrics import mean_metric


@dataclass(frozen=True, kw_only=True)
class GradedQuestion(Question):
    """A question of an evaluation with its own grader.

    Attributes:
        language: "zh" or "en".
        is_correct: grades an answer; it accepts others than `answers`, too.
        swapped_image: an image for which the accepted answers differ; None if there is none.
        score_things: counts the things that a description names; None for other kinds.
    """

    language: Language
    is_correct: Callable[[str], bool]
    swapped_image: ImageReference | None = None
    score_things: Callable[[str], ThingScore] | None = None


def grade(answered: Answered) -> float:
    """Return 1 for an answer that its question accepts, else 0."""
    assert isinstance(answered.question, GradedQuestion)
    return float(answered.question.is_correct(answered.text))


MEANING = mean_metric("meaning", grade)
