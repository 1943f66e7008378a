"""A table of measurements, each row printed as soon as it is measured, beside what was promised of it."""

import argparse
import fnmatch
import gc
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Target:
    """What a row should reach: at least `value`, or at most."""

    value: float
    is_upper_bound: bool = False

    def ratio(self, measured: float) -> float:
        """Return how many times better than promised a measurement is; the promise is kept from 1 on."""
        return self.value / measured if self.is_upper_bound else measured / self.value

    def __str__(self) -> str:
        return f"{'at most' if self.is_upper_bound else 'at least'} {self.value:,g}"


def at_most(value: float) -> Target:
    """Return the promise of a time or of memory."""
    return Target(value, is_upper_bound=True)


def at_least(value: float) -> Target:
    """Return the promise of a rate."""
    return Target(value)


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Attributes:
        name: by which it is chosen.
        what: for a reader, with its unit.
        measure: given the stage's subject, returns the number and, where there is more to say, a note.
    """

    name: str
    what: str
    measure: Callable[[Any], float | tuple[float, str]]
    target: Target | None = None

    def value(self, subject: Any) -> tuple[float, str]:
        """Return the number measured and the note."""
        measured = self.measure(subject)
        return measured if isinstance(measured, tuple) else (measured, "")


@dataclass(frozen=True)
class Stage:
    """Rows that are measured on one subject, which is made for them and then given up."""

    name: str
    make: Callable[[], Any]
    rows: list[Row]


@dataclass(frozen=True)
class Comparison:
    """Two rows of one run; their names are "stage/row". `better` is the one that the ratio is in favour of."""

    what: str
    better: str
    other: str
    target: Target | None = None
    is_time: bool = True


@dataclass
class Table:
    """The rows chosen and what they have shown.

    Attributes:
        only: patterns of "stage/row"; empty for all.
    """

    only: list[str] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Whether a row is chosen."""
        return not self.only or any(fnmatch.fnmatch(name, pattern) for pattern in self.only)

    def run(self, stages: Iterable[Stage]) -> None:
        """Measure the chosen rows of every stage; what fails is printed in its place, and stops nothing else."""
        show("| row | what | measured | promise | ratio | note |\n|---|---|---|---|---|---|")
        for stage in stages:
            rows = [row for row in stage.rows if self.wants(f"{stage.name}/{row.name}")]
            if rows:
                self._run_stage(stage, rows)
                free_memory()

    def _run_stage(self, stage: Stage, rows: list[Row]) -> None:
        try:
            subject = stage.make()
        except Exception as error:
            show(f"| {stage.name} | could not be made | {format_failure(error)} | | | |")
            return
        for row in rows:
            self._run_row(f"{stage.name}/{row.name}", row, subject)

    def _run_row(self, name: str, row: Row, subject: Any) -> None:
        try:
            value, note = row.value(subject)
        except Exception as error:
            show(f"| {name} | {row.what} | {format_failure(error)} | {row.target or ''} | | |")
            return
        self.results[name] = value
        ratio = "" if row.target is None else f"{row.target.ratio(value):.2f}"
        show(f"| {name} | {row.what} | {format_number(value)} | {row.target or ''} | {ratio} | {note} |")

    def compare(self, comparisons: Iterable[Comparison]) -> None:
        """Print by how much rows of this run are better than others, where both were measured."""
        show("\n| in this run | row | other row | x as good | promise | ratio |\n|---|---|---|---|---|---|")
        for one in comparisons:
            if one.better not in self.results or one.other not in self.results:
                continue
            better, other = self.results[one.better], self.results[one.other]
            factor = other / better if one.is_time else better / other
            ratio = "" if one.target is None else f"{one.target.ratio(factor):.2f}"
            names = f"{one.better}: {format_number(better)} | {one.other}: {format_number(other)}"
            show(f"| {one.what} | {names} | {factor:.2f} | {one.target or ''} | {ratio} |")


def show(text: str) -> None:
    """Print at once, whatever stands between us and the reader."""
    print(text, flush=True)


def format_number(value: float) -> str:
    """Write a number with three or four digits that matter."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def format_failure(error: Exception) -> str:
    """Say what went wrong in the cell of a table; the traceback goes to stderr."""
    traceback.print_exception(error)
    lines = str(error).splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0].replace('|', '/')[:200]}"


def free_memory() -> None:
    """Give back what nobody holds any more, so that the next subject has the device to itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose rows."""
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE/ROW", help="rows to measure, such as 'int4/*'")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")


def list_rows(stages: Iterable[Stage]) -> None:
    """Print the names by which rows are chosen."""
    for stage in stages:
        for row in stage.rows:
            show(f"{stage.name}/{row.name}: {row.what}" + (f" ({row.target})" if row.target else ""))
