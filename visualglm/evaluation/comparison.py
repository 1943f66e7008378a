"""The comparison of two runs on the same questions: differences with intervals, and McNemar's test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .answers import Answered
from .bootstrap import (
    LEVEL,
    RESAMPLES,
    SEED,
    Difference,
    McNemar,
    clusters_of,
    compare_runs,
    is_correct,
    mcnemar,
)
from .errors import EvaluationError
from .metrics.metric import Metric, total
from .report_table import format_columns, format_interval, format_number


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs by a metric.

    Attributes:
        metric: the metric.
        first, second: scores of the runs, in percent.
        differences: first minus second, by score.
        mcnemar: test of the correct answers: those whose grade is at least one half.
    """

    metric: Metric
    first: dict[str, float]
    second: dict[str, float]
    differences: dict[str, Difference]
    mcnemar: McNemar


def compare_answers(
    metric: Metric,
    first: Sequence[Answered],
    second: Sequence[Answered],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare the answers of two runs to the same questions.

    Args:
        metric: the metric.
        first, second: the answers, in the same order of questions.
        resamples, seed: of the bootstrap.

    Raises:
        EvaluationError: the questions differ, or there are none.
    """
    if [answer.question for answer in first] != [answer.question for answer in second]:
        raise EvaluationError("The runs answer different questions. Compare answers to the same file of questions.")
    own, other = metric.measure(first), metric.measure(second)
    return Comparison(
        metric,
        total(metric, own),
        total(metric, other),
        compare_runs(metric, own, other, clusters_of(first), resamples=resamples, seed=seed),
        mcnemar(is_correct(metric.grade(own)), is_correct(metric.grade(other))),
    )


def format_comparison(comparison: Comparison, names: tuple[str, str]) -> Iterator[str]:
    """Yield the lines of a comparison.

    Args:
        comparison: the comparison.
        names: names of the runs.
    """
    rows: list[tuple[str, ...]] = [(comparison.metric.name, *names, "difference", f"{LEVEL} % interval", "p")]
    for name, difference in comparison.differences.items():
        scores = [format_number(run[name]) for run in (comparison.first, comparison.second)]
        interval = difference.interval
        numbers = (format_number(interval.value), format_interval(interval), f"{difference.p_value:.3f}")
        rows.append((name, *scores, *numbers))
    yield from format_columns(rows)
    test = comparison.mcnemar
    yield (
        f"only {names[0]} correct: {test.first_only:,}, only {names[1]} correct: {test.second_only:,} "
        f"(McNemar's exact test: p = {test.p_value:.3f})"
    )
