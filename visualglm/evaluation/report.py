"""The report of an evaluation as data: scores with intervals, scores by kind, controls, calibration and grades."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from model.file_writing import write_text_atomically
from model.seeds import Interval, SeedSummary, summarize_seeds

from .answers import Answered, AnswerRow, match_answers
from .bootstrap import RESAMPLES, SEED, clusters_of, confidence_intervals
from .calibration import Calibration, calibrate
from .errors import EvaluationError
from .metrics import mme_totals
from .metrics.metric import Array, Metric, score
from .reliance import RelianceCalibration, calibrate_reliance
from .swaps import ControlResult, compare_with_control

SWAPPED, WITHOUT_IMAGE = "swapped", "without"  # controls: another image, and no image


@dataclass(frozen=True)
class KindResult:
    """The scores of one kind of question."""

    count: int
    scores: dict[str, Interval]


@dataclass(frozen=True)
class MetricResult:
    """The scores of a metric.

    Attributes:
        metric: the metric.
        scores: all scores with their intervals, in percent.
        kinds: the same by kind of question.
        totals: other scores of all answers, such as MME's totals.
        controls: comparisons with the controls that were run, by name.
        calibration: calibration of the answers; None without log-probabilities, or if the metric is no accuracy.
        grades: quality of each answer, from 0 to about 1.
        reliance: the answers by their reliance; None if it was not measured, or if the metric is no accuracy.
        seeds: the scores of sampled answers over several seeds; empty if there are none.
    """

    metric: Metric
    scores: dict[str, Interval]
    kinds: dict[str, KindResult]
    totals: dict[str, float]
    controls: dict[str, ControlResult]
    calibration: Calibration | None
    grades: Array
    reliance: RelianceCalibration | None = None
    seeds: Mapping[str, SeedSummary] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The report of an evaluation.

    Attributes:
        title: what was evaluated on which data.
        answered: all questions with their answers.
        results: the results of each metric; the first grades the answers.
        control_answers: answers of each control, by name and key.
        settings: other facts to write into the JSON file.
    """

    title: str
    answered: Sequence[Answered]
    results: Sequence[MetricResult]
    control_answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Return the number of different images."""
        return len({answer.question.group for answer in self.answered} - {""})

    def worst(self, count: int) -> list[int]:
        """Return the indices of at most `count` answers that are not fully correct, the worst first."""
        grades = self.results[0].grades
        bad = [index for index, grade in enumerate(grades) if not (math.isnan(grade) or grade >= 1)]
        return sorted(bad, key=lambda index: float(grades[index]))[:count]


def make_report(
    title: str,
    metrics: Sequence[Metric],
    answered: Sequence[Answered],
    controls: Mapping[str, Iterable[AnswerRow]] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    sampled: Sequence[Iterable[AnswerRow]] = (),
    reliances: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Report:
    """Evaluate answers.

    Args:
        title: title of the report.
        metrics: at least one metric.
        answered: all questions with their answers.
        controls: answers with swapped images (`SWAPPED`) and without an image (`WITHOUT_IMAGE`), to some or all of the
            same questions.
        settings: other facts for the JSON file.
        sampled: answers to all the questions that were sampled with several seeds, one list for each seed.
        reliances: reliance of answers on their images by key, in nats; see `reliance`.
        resamples, seed: of the bootstrap.

    Raises:
        EvaluationError: there are no answers or metrics, a control has an answer to an unknown question, or sampled
            answers are missing.
    """
    if not answered or not metrics:
        raise EvaluationError("There are no answers or no metrics. Give at least one of each.")
    rows = {name: match_control(answered, control) for name, control in (controls or {}).items()}
    questions = [answer.question for answer in answered]
    seeds = [match_answers(questions, answers) for answers in sampled]
    results = [
        replace(evaluate_metric(metric, answered, rows, resamples, seed), seeds=summarize_sampled(metric, seeds))
        for metric in metrics
    ]
    if reliances is not None:
        results = [
            replace(result, reliance=calibrate_reliance(answered, result.grades, reliances))
            if result.metric.is_accuracy
            else result
            for result in results
        ]
    texts = {name: {answer.question.key: answer.text for answer in control} for name, (_, control) in rows.items()}
    return Report(title, answered, results, texts, settings or {})


Pair = tuple[list[Answered], list[Answered]]


def match_control(answered: Sequence[Answered], rows: Iterable[AnswerRow]) -> Pair:
    """Return the answers to a control's questions: with the own images, and of the control.

    Raises:
        EvaluationError: a row belongs to no question, or two rows to one.
    """
    given = list(rows)
    by_key = {row.key: row for row in given}
    if {*by_key} - {answer.question.key for answer in answered} or len(by_key) < len(given):
        raise EvaluationError("A control has several answers to one question, or answers to unknown questions.")
    own = [answer for answer in answered if answer.question.key in by_key]
    return own, [Answered(answer.question, by_key[answer.question.key]) for answer in own]


def evaluate_metric(
    metric: Metric, answered: Sequence[Answered], controls: Mapping[str, Pair], resamples: int, seed: int
) -> MetricResult:
    """Return the results of one metric."""
    statistics, clusters = metric.measure(answered), clusters_of(answered)
    kinds = {
        kind: KindResult(
            len(indices),
            confidence_intervals(
                metric, statistics[indices], [clusters[index] for index in indices], resamples=resamples, seed=seed
            ),
        )
        for kind, indices in indices_by_kind(answered).items()
    }
    grades = metric.grade(statistics)
    values = {kind: {name: part.value for name, part in result.scores.items()} for kind, result in kinds.items()}
    return MetricResult(
        metric,
        confidence_intervals(metric, statistics, clusters, resamples=resamples, seed=seed),
        kinds,
        mme_totals(values) if metric.name == "mme" else {},
        {
            name: compare_with_control(
                metric,
                metric.measure(own),
                metric.measure(control),
                clusters_of(own),
                resamples=resamples,
                seed=seed,
            )
            for name, (own, control) in controls.items()
            if own
        },
        calibrate(answered, grades) if metric.is_accuracy else None,
        grades,
    )


def summarize_sampled(metric: Metric, seeds: Sequence[Sequence[Answered]]) -> dict[str, SeedSummary]:
    """Return the summary of each score of a metric over the sampled answers of several seeds."""
    return summarize_seeds([score(metric, answered) for answered in seeds])


def indices_by_kind(answered: Sequence[Answered]) -> dict[str, list[int]]:
    """Return the indices of the answers of each kind; empty if there is only one kind."""
    kinds: dict[str, list[int]] = {}
    for index, answer in enumerate(answered):
        kinds.setdefault(answer.question.kind, []).append(index)
    return kinds if len(kinds) > 1 else {}


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values; undefined scores are null."""
    content = {
        "title": report.title,
        "settings": dict(report.settings),
        "questions": len(report.answered),
        "images": report.images,
        "metrics": {result.metric.name: metric_to_json(result) for result in report.results},
        "answers": [answer_to_json(report, index) for index in range(len(report.answered))],
    }
    cleaned: dict[str, Any] = without_nan(content)
    return cleaned


def metric_to_json(result: MetricResult) -> dict[str, Any]:
    """Return the results of a metric as JSON values, which may be NaN."""
    return {
        "scores": {name: asdict(interval) for name, interval in result.scores.items()},
        "totals": result.totals,
        "kinds": {kind: asdict(part) for kind, part in result.kinds.items()},
        "controls": {name: asdict(control) for name, control in result.controls.items()},
        "calibration": None if result.calibration is None else asdict(result.calibration),
        "reliance": None if result.reliance is None else asdict(result.reliance),
        "seeds": {name: asdict(summary) for name, summary in result.seeds.items()},
    }


def answer_to_json(report: Report, index: int) -> dict[str, Any]:
    """Return an answer as JSON values."""
    answer = report.answered[index]
    question = answer.question
    return {
        "key": question.key,
        "kind": question.kind,
        "image": None if question.image is None else question.image.name,
        "question": question.text,
        "accepted": list(question.answers),
        "answer": answer.text,
        "grades": {result.metric.name: float(result.grades[index]) for result in report.results},
        **{f"{name}_answer": answers.get(question.key) for name, answers in report.control_answers.items()},
    }


def without_nan(value: Any) -> Any:
    """Return JSON values with None for NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, report: Report) -> None:
    """Write a report as JSON.

    Raises:
        EvaluationError: the file cannot be written.
    """
    text = json.dumps(to_json(report), ensure_ascii=False, indent=1, allow_nan=False)
    try:
        write_text_atomically(path, f"{text}\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error.strerror}. Choose another file.") from error
