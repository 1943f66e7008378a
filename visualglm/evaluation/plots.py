"""Plots as SVG elements that need no other file: scores by kind, and the reliability diagram."""

import math
from collections.abc import Mapping

from model.seeds import Interval
from model.svg import BLUE, DARK, GRAY, RED, element, line, text

from .calibration import Calibration

LABEL_WIDTH, BAR_WIDTH, ROW_HEIGHT = 180, 360, 26  # pixels
VALUE_WIDTH = 150
MAX_LABEL = 24  # characters
SIDE, MARGIN = 260, 46  # of the reliability diagram, in pixels


def bars(label: str, scores: Mapping[str, Interval]) -> str:
    """Return a bar for each score, with its interval.

    Args:
        label: what is shown.
        scores: scores in percent by name, in order; undefined ones have no bar.
    """
    defined = [part for part in scores.values() if not math.isnan(part.value)]
    limit = max([100.0, *(part.value for part in defined), *(part.high for part in defined if part.high == part.high)])
    parts = []
    for row, (name, interval) in enumerate(scores.items()):
        top = row * ROW_HEIGHT
        shown = name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"
        parts.append(text(LABEL_WIDTH - 8, top + 17, shown or "-", "end"))
        parts += bar(interval, top, BAR_WIDTH / limit)
    width = LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH
    return element(width, max(1, len(scores)) * ROW_HEIGHT, label, parts)


def bar(interval: Interval, top: int, scale: float) -> list[str]:
    """Return one bar with its interval and its value."""
    end = LABEL_WIDTH + BAR_WIDTH + 8
    if math.isnan(interval.value):
        return [text(end, top + 17, "-")]
    length = max(0.0, interval.value) * scale
    parts = [f'<rect x="{LABEL_WIDTH}" y="{top + 4}" width="{length:.1f}" height="18" fill="{BLUE}" opacity="0.55"/>']
    value = f"{interval.value:.1f}"
    if not math.isnan(interval.low):
        low, high = (LABEL_WIDTH + limit * scale for limit in (interval.low, interval.high))
        parts += [line(low, top + 13, high, top + 13, DARK)]
        parts += [line(x, top + 9, x, top + 17, DARK) for x in (low, high)]
        value += f" [{interval.low:.1f}, {interval.high:.1f}]"
    return [*parts, text(end, top + 17, value)]


def reliability_diagram(label: str, calibration: Calibration) -> str:
    """Return the accuracy of answers by confidence; on the diagonal the model is calibrated."""
    parts = [
        f'<rect x="{MARGIN}" y="8" width="{SIDE}" height="{SIDE}" fill="none" stroke="{GRAY}"/>',
        line(MARGIN, 8 + SIDE, MARGIN + SIDE, 8, GRAY),
    ]
    for part in calibration.bins:
        if part.count:
            left, height = MARGIN + part.low * SIDE, part.accuracy * SIDE
            parts.append(
                f'<rect x="{left + 1:.1f}" y="{8 + SIDE - height:.1f}" width="{(part.high - part.low) * SIDE - 2:.1f}" '
                f'height="{height:.1f}" fill="{BLUE}" opacity="0.55">'
                f"<title>{part.count} answers, confidence {part.confidence:.2f}, accuracy {part.accuracy:.2f}</title>"
                "</rect>"
            )
            parts.append(
                f'<circle cx="{MARGIN + part.confidence * SIDE:.1f}" cy="{8 + SIDE - height:.1f}" r="4" fill="{RED}"/>'
            )
    for mark in (0.0, 0.5, 1.0):
        parts.append(text(MARGIN + mark * SIDE, SIDE + 26, f"{mark:g}", "middle"))
        parts.append(text(MARGIN - 6, 12 + SIDE - mark * SIDE, f"{mark:g}", "end"))
    parts.append(text(MARGIN + SIDE / 2, SIDE + 44, "confidence", "middle"))
    parts.append(text(MARGIN, SIDE + 64, f"accuracy by confidence; expected calibration error {calibration.error:.3f}"))
    return element(MARGIN + SIDE + 100, SIDE + 72, label, parts)
