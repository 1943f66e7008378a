"""The table of several seeds, as text and as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.seeds import SeedSummary

LEVEL = 95  # percent, of the intervals of model.seeds


def format_table(seeds: Sequence[int], summary: Mapping[str, SeedSummary]) -> Iterator[str]:
    """Yield the lines of a table: mean, interval and deviation of each number, and its value for each seed."""
    rows = [["number", "mean", f"{LEVEL} % interval", "deviation", *(f"seed {seed}" for seed in seeds)]]
    for name, part in summary.items():
        interval = "-" if math.isnan(part.mean.low) else f"[{part.mean.low:.4g}, {part.mean.high:.4g}]"
        deviation = "-" if math.isnan(part.deviation) else f"{part.deviation:.4g}"
        rows.append([name, f"{part.mean.value:.4g}", interval, deviation, *(f"{value:.4g}" for value in part.values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def to_json(runs: Mapping[int, Path], summary: Mapping[str, SeedSummary]) -> dict[str, Any]:
    """Return the table as JSON values; the interval and deviation of a single seed are null."""
    return {
        "runs": {str(seed): str(path) for seed, path in runs.items()},
        "numbers": {
            name: {
                "mean": part.mean.value,
                "low": finite(part.mean.low),
                "high": finite(part.mean.high),
                "deviation": finite(part.deviation),
                "values": list(part.values),
            }
            for name, part in summary.items()
        },
    }


def finite(value: float) -> float | None:
    """Return a number, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
