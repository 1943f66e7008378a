"""The report of an evaluation as lines of text."""

import math
from collections.abc import Iterator, Sequence

from model.seeds import Interval

from .bootstrap import LEVEL
from .report import SWAPPED, WITHOUT_IMAGE, MetricResult, Report
from .swaps import ControlResult

CONTROLS = {SWAPPED: "swapped images", WITHOUT_IMAGE: "no image"}
BLIND = "NOT LOOKING"  # the mark of a control that is not worse
ALL = "all"


def format_number(value: float) -> str:
    """Format a score in percent with two decimals, NaN as -."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def format_interval(interval: Interval) -> str:
    """Format the limits of an interval, "" if they are undefined."""
    if math.isnan(interval.low):
        return ""
    return f"[{format_number(interval.low)}, {format_number(interval.high)}]"


def format_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines with aligned columns; only the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def format_report(report: Report) -> Iterator[str]:
    """Yield the lines of a report."""
    yield report.title
    yield f"{len(report.answered):,} questions, {report.images:,} images"
    for result in report.results:
        yield ""
        yield from format_metric(result)


def format_metric(result: MetricResult) -> Iterator[str]:
    """Yield the lines of a metric: all scores, the main score by kind, seeds, controls and calibration."""
    rows = [("score", "%", f"{LEVEL} % interval")]
    rows += [(name, format_number(part.value), format_interval(part)) for name, part in result.scores.items()]
    rows += [(name, format_number(value), "") for name, value in result.totals.items()]
    yield f"{result.metric.name}:"
    yield from format_columns(rows)
    yield from format_kinds(result)
    yield from format_seeds(result)
    for name, control in result.controls.items():
        yield describe_control(result, name, control)
    if result.calibration is not None:
        calibration = result.calibration
        yield f"expected calibration error: {100 * calibration.error:.2f} % of {calibration.count:,} answers"
    yield from format_reliance(result)


def format_kinds(result: MetricResult) -> Iterator[str]:
    """Yield the table of all scores by kind, with the interval of the main score."""
    if not result.kinds:
        return
    main = result.metric.main
    others = [name for name in result.scores if name != main]
    rows = [("kind", "questions", main, f"{LEVEL} % interval", *others)]
    for kind, part in result.kinds.items():
        values = [format_number(part.scores[name].value) for name in others]
        scores = part.scores[main]
        rows.append((kind or "-", f"{part.count:,}", format_number(scores.value), format_interval(scores), *values))
    yield from format_columns(rows)


def format_reliance(result: MetricResult) -> Iterator[str]:
    """Yield the table of the share of right answers by reliance on the image, and the area under the ROC curve."""
    if result.reliance is None:
        return
    rows = [("reliance, nats", "answers", "right %")]
    for group in result.reliance.groups:
        low = "" if group.low is None else f"from {group.low:.1f} "
        high = "" if group.high is None else f"below {group.high:.1f}"
        rows.append(((low + high).strip(), f"{group.count:,}", format_number(100 * group.accuracy)))
    yield from format_columns(rows)
    if not math.isnan(result.reliance.auroc):
        yield f"right answers rely more on images than wrong ones: area under the ROC curve {result.reliance.auroc:.3f}"


def format_seeds(result: MetricResult) -> Iterator[str]:
    """Yield the table of sampled answers: mean, interval and standard deviation of each score, and each seed's."""
    if not result.seeds:
        return
    count = len(next(iter(result.seeds.values())).values)
    rows = [(f"sampled, {count} seed{'' if count == 1 else 's'}", "mean", f"{LEVEL} % interval", "deviation", "each")]
    for name, summary in result.seeds.items():
        mean, each = summary.mean, ", ".join(map(format_number, summary.values))
        rows.append((name, format_number(mean.value), format_interval(mean), format_number(summary.deviation), each))
    yield from format_columns(rows)


def describe_control(result: MetricResult, name: str, control: ControlResult) -> str:
    """Return one line about a control: the number of pairs, the difference of the main score, and the mark."""
    main = result.metric.main
    difference = control.differences[main]
    text = (
        f"own image minus {CONTROLS.get(name, name)}: {main} {format_number(difference.interval.value)} "
        f"{format_interval(difference.interval)}, p = {difference.p_value:.3f}, "
        f"{control.pairs:,} of {len(result.grades):,} questions"
    )
    return f"{text}  {BLIND}" if control.is_blind else text
