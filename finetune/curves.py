"""Draw curves by step as SVG: one panel per number, in which each curve has a color and a dash pattern of its own."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from model.svg import DARK, element, line, text

from .run_log import Points

# Curves differ by color and by dash pattern, so that they can be told apart in grayscale. The numbers of colors and
# patterns have no common divisor: no two of the first 42 curves look alike.
COLORS = ("#3465a4", "#c4560a", "#2e7d4f", "#8a3ffc", "#9a6700", "#c2255c", "#444444")
DASHES = ("", "7 3", "2 2", "10 3 2 3", "14 4", "6 2 2 2 2 2")
WIDTH, HEIGHT = 420, 250  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 28, 30, 40  # margins of the axes
COLUMNS = 2  # panels side by side
LEGEND_ROW, MAX_LABEL, CHARACTER = 20, 90, 7.5  # height in pixels; characters of a name; their mean width in pixels
GRID = "#ddd"
MAX_POINTS = 400  # of a curve; more are reduced to the extremes of intervals
MAX_MARKED = 50  # curves of at most so many points have a mark at each
TICKS = 5  # about so many on an axis


@dataclass(frozen=True)
class Curve:
    """Values by step.

    Attributes:
        points: (step, value), in ascending order of the steps.
        style: number of its color and dash pattern.
    """

    points: Points
    style: int = 0


@dataclass(frozen=True)
class Panel:
    """A number whose curves are drawn over each other."""

    title: str
    curves: Sequence[Curve]


def draw_figure(label: str, legend: Sequence[str], panels: Sequence[Panel]) -> str:
    """Return all panels and the legend as one SVG image with a white background.

    Args:
        label: describes the image.
        legend: name of each style; no legend if there is only one.
        panels: at least one panel.
    """
    columns, last = min(COLUMNS, len(panels)), last_step(panels)
    top = len(legend) * LEGEND_ROW + 8 if len(legend) > 1 else 0
    width, height = columns * WIDTH, top + -(-len(panels) // columns) * HEIGHT
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>', *(draw_legend(legend) if top else [])]
    for number, panel in enumerate(panels):
        x, y = number % columns * WIDTH, top + number // columns * HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *draw_panel(panel, last), "</g>"]
    return element(width, height, label, parts)


def draw_separately(legend: Sequence[str], panels: Sequence[Panel]) -> str:
    """Return an HTML figure with an image for each panel, which a narrow page shows below each other.

    Args:
        legend: name of each style; no legend if there is only one.
        panels: at least one panel.
    """
    last = last_step(panels)
    images = [element(WIDTH, HEIGHT, f"{panel.title} by step", draw_panel(panel, last)) for panel in panels]
    if len(legend) > 1:
        width = 80 + round(CHARACTER * min(MAX_LABEL, max(map(len, legend))))
        image = element(width, len(legend) * LEGEND_ROW + 8, "legend", draw_legend(legend))
        images = [f"<div>{image}</div>", *images]
    return "<figure>\n{}\n</figure>".format("\n".join(images))


def last_step(panels: Sequence[Panel]) -> int:
    """Return the last step of all panels, whose axes end there."""
    return max(curve.points[-1][0] for panel in panels for curve in panel.curves)


def draw_legend(names: Sequence[str]) -> list[str]:
    """Return a legend: a line and a name for each style, in rows."""
    parts = []
    for style, name in enumerate(names):
        y = style * LEGEND_ROW + 16
        shown = name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"
        parts += [draw_path([(12, y - 4), (58, y - 4)], style), text(68, y, shown)]
    return parts


def draw_panel(panel: Panel, last: int) -> list[str]:
    """Return the axes and the curves of a panel, from step 0 to step `last`."""
    values = axis_range([value for curve in panel.curves for _, value in curve.points])
    x_of, y_of = Scale(0, max(1, last), LEFT, WIDTH - RIGHT), Scale(*values, HEIGHT - BOTTOM, TOP)
    parts = [text(LEFT, TOP - 12, panel.title), text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "step", "middle")]
    parts += draw_axes(x_of, y_of)
    for curve in panel.curves:
        shown = reduce_points(curve.points)
        places = [(x_of(step), y_of(value)) for step, value in shown]
        parts.append(draw_path(places, curve.style))
        if len(shown) <= MAX_MARKED:
            parts += [draw_mark(*place, curve.style, point) for place, point in zip(places, shown, strict=True)]
    return parts


def draw_axes(x_of: "Scale", y_of: "Scale") -> list[str]:
    """Return the axes of a panel, with marks at round numbers."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(y_of.low, y_of.high):
        parts += [line(LEFT, y_of(value), right, y_of(value), GRID)]
        parts += [text(LEFT - 6, y_of(value) + 4, format_number(value), "end")]
    for value in ticks(x_of.low, x_of.high):
        if value == int(value):
            parts += [line(x_of(value), bottom, x_of(value), bottom + 4, DARK)]
            parts += [text(x_of(value), bottom + 18, format_number(value), "middle")]
    return [*parts, line(LEFT, bottom, right, bottom, DARK)]


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` linearly to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw_path(points: Sequence[tuple[float, float]], style: int) -> str:
    """Return a line through points, in the color and the dash pattern of a style."""
    dash = DASHES[style % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{color_of(style)}" stroke-width="1.6"{dashes}/>'


def draw_mark(x: float, y: float, style: int, point: tuple[int, float]) -> str:
    """Return a dot whose tooltip shows step and value."""
    tooltip = html.escape(f"step {point[0]}: {point[1]:.5g}")
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color_of(style)}"><title>{tooltip}</title></circle>'


def color_of(style: int) -> str:
    """Return the color of a style."""
    return COLORS[style % len(COLORS)]


def reduce_points(points: Points) -> Points:
    """Return at most about `MAX_POINTS` points: the lowest and the highest value of each interval, in order."""
    if len(points) <= MAX_POINTS:
        return points
    size = -(-len(points) // (MAX_POINTS // 2))
    kept: Points = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        extremes = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(extremes)
    return kept


def axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an axis, with a margin around the values; below 0 only if a value is."""
    low, high = min(values), max(values)
    margin = (high - low) / 20 or abs(low) / 10 or 1.0
    return low - margin if low < 0 else max(0.0, low - margin), high + margin


def ticks(low: float, high: float) -> list[float]:
    """Return round values between two limits, about `TICKS` of them."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    size = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    return [number * size for number in range(math.ceil(low / size), math.floor(high / size) + 1)]


def format_number(value: float) -> str:
    """Return a number in few digits."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.4g}"
