"""Metrics of `visualglm evaluate` for the answers to held-out questions, imported only if one is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from model.errors import SettingError, VisualGLMError

# Fine-tuning does not depend on the programs, except for this package, which needs no model.
EVALUATION = "visualglm.evaluation"
# Metrics that rows of training data lack something for.
UNSUITABLE = {
    "choices": "questions with options",
    "mme": "MME's categories with two questions about each image",
    "chair": "a list of objects",
}
YES_NO = "pope"  # the metric of answers that are yes or no


@dataclass(frozen=True)
class AnsweredText:
    """An answer to a held-out question.

    Attributes:
        question: the question.
        expected: the expected answer, as the chat displays it.
        answer: the model's answer; "" if it could not answer.
    """

    question: str
    expected: str
    answer: str


class AnswerMetrics:
    """Metrics of answers, each with one or more scores in percent.

    Args:
        names: names of at least one metric.

    Attributes:
        main: name of the first metric's main score, which early stopping counts. A higher one is better.
        restricts_answers: whether a metric suits certain expected answers only.

    Raises:
        SettingError: a metric does not exist, or training data cannot have it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        known: Mapping[str, Any] = import_module(f"{EVALUATION}.metrics").METRICS
        usable = ", ".join(name for name in known if name not in UNSUITABLE)
        for name in names:
            if name in UNSUITABLE:
                raise SettingError(
                    f"--metric {name} needs {UNSUITABLE[name]}, which training data does not have. "
                    f"Choose from {usable}."
                )
            if name not in known:
                raise SettingError(f"--metric {name}: there is no such metric. Choose from {usable}.")
        self.metrics = [known[name] for name in dict.fromkeys(names)]
        self.main = score_name(self.metrics[0], self.metrics[0].main)
        self.restricts_answers = YES_NO in names

    def check(self, answered: Sequence[AnsweredText]) -> None:
        """Score answers only to find out whether all metrics can be computed.

        Raises:
            SettingError: a library is not installed, or an expected answer does not suit a metric.
        """
        for metric in self.metrics:
            try:
                self._score_one(metric, answered)
            except SettingError:
                raise
            except VisualGLMError as error:
                raise SettingError(f"--metric {metric.name}: {error}") from error

    def score(self, answered: Sequence[AnsweredText]) -> dict[str, float]:
        """Return all scores of all metrics by name, in percent; NaN where one is undefined."""
        return {name: value for metric in self.metrics for name, value in self._score_one(metric, answered).items()}

    def _score_one(self, metric: Any, answered: Sequence[AnsweredText]) -> dict[str, float]:
        rows = [to_row(str(number), answer, metric.name == YES_NO) for number, answer in enumerate(answered)]
        scores: dict[str, float] = import_module(f"{EVALUATION}.metrics").score(metric, rows)
        return {score_name(metric, name): value for name, value in scores.items()}


def score_name(metric: Any, name: str) -> str:
    """Return the name of a metric's score, which begins with the name of the metric."""
    return name if name.startswith(metric.name) else f"{metric.name}_{name}"


def to_row(key: str, answered: AnsweredText, is_yes_no: bool) -> Any:
    """Return an answer as `visualglm.evaluation` takes it.

    Raises:
        SettingError: the expected answer should be yes or no, and is neither.
    """
    expected = read_yes_no(answered.expected) if is_yes_no else answered.expected
    question = import_module(f"{EVALUATION}.data.question").Question(key, None, answered.question, (expected,))
    answers = import_module(f"{EVALUATION}.answers")
    return answers.Answered(question, answers.AnswerRow(key, answered.answer))


def read_yes_no(expected: str) -> str:
    """Return "yes" or "no" for an expected answer.

    Raises:
        SettingError: it is neither.
    """
    word = expected.strip().rstrip(".!。！").lower()
    if word not in ("yes", "no"):
        raise SettingError(
            f"--metric {YES_NO} needs expected answers that are yes or no; one is {expected!r}. Choose another metric."
        )
    return word
