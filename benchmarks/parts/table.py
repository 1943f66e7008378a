"""A table of measurements with targets; rows are printed immediately."""

import argparse
import fnmatch
import gc
import math
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Target:
    """The target of a row: a lower or an upper bound."""

    value: float
    is_upper_bound: bool = False

    def ratio(self, measured: float) -> float:
        """Return how many times better than the target a measurement is; 1 or more meets it."""
        if self.is_upper_bound:
            return self.value / measured if measured else math.inf
        return measured / self.value

    def __str__(self) -> str:
        return f"{'at most' if self.is_upper_bound else 'at least'} {self.value:,g}"


def at_most(value: float) -> Target:
    """Return a target for a time or for memory."""
    return Target(value, is_upper_bound=True)


def at_least(value: float) -> Target:
    """Return a target for a rate."""
    return Target(value)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: name to select it by.
        description: description with unit.
        measure: given the backend of the stage, returns the number, or the number and a note.
        target: target of the number, or None.
    """

    name: str
    description: str
    measure: Callable[[Any], float | tuple[float, str]]
    target: Target | None = None

    def value(self, backend: Any) -> tuple[float, str]:
        """Return the measured number and the note."""
        measured = self.measure(backend)
        return measured if isinstance(measured, tuple) else (measured, "")


@dataclass(frozen=True)
class Stage:
    """Rows that are measured on one backend, which is created for them and freed afterwards."""

    name: str
    make: Callable[[], Any]
    rows: list[Row]


@dataclass(frozen=True)
class Comparison:
    """A comparison of two rows, named "stage/row"; the ratio is in favor of `better`."""

    description: str
    better: str
    other: str
    target: Target | None = None
    is_time: bool = True


@dataclass
class Table:
    """The selected rows and their results.

    Attributes:
        only: patterns of "stage/row"; empty selects all.
        results: measured numbers by "stage/row".
    """

    only: list[str] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Check whether a row is selected."""
        return not self.only or any(fnmatch.fnmatch(name, pattern) for pattern in self.only)

    def run(self, stages: Iterable[Stage]) -> None:
        """Measure the selected rows of every stage; a failure is printed and does not stop the run."""
        show("| row | description | measured | target | ratio | note |\n|---|---|---|---|---|---|")
        for stage in stages:
            rows = [row for row in stage.rows if self.wants(f"{stage.name}/{row.name}")]
            if rows:
                self._run_stage(stage, rows)
                free_memory()

    def _run_stage(self, stage: Stage, rows: list[Row]) -> None:
        try:
            backend = stage.make()
        except Exception as error:
            show(f"| {stage.name} | could not be created | {format_failure(error)} | | | |")
            return
        for row in rows:
            self._run_row(f"{stage.name}/{row.name}", row, backend)

    def _run_row(self, name: str, row: Row, backend: Any) -> None:
        try:
            value, note = row.value(backend)
        except Exception as error:
            show(f"| {name} | {row.description} | {format_failure(error)} | {row.target or ''} | | |")
            return
        self.results[name] = value
        ratio = "" if row.target is None else f"{row.target.ratio(value):.2f}"
        show(f"| {name} | {row.description} | {format_number(value)} | {row.target or ''} | {ratio} | {note} |")

    def compare(self, comparisons: Iterable[Comparison]) -> None:
        """Print the ratio of rows of this run, for all pairs that were measured."""
        if not (comparisons := list(comparisons)):
            return
        show("\n| comparison | row | baseline | factor | target | ratio |\n|---|---|---|---|---|---|")
        for one in comparisons:
            if one.better not in self.results or one.other not in self.results:
                continue
            better, other = self.results[one.better], self.results[one.other]
            factor = other / better if one.is_time else better / other
            ratio = "" if one.target is None else f"{one.target.ratio(factor):.2f}"
            names = f"{one.better}: {format_number(better)} | {one.other}: {format_number(other)}"
            show(f"| {one.description} | {names} | {factor:.2f} | {one.target or ''} | {ratio} |")


def show(text: str) -> None:
    """Print without buffering."""
    print(text, flush=True)


def format_number(value: float) -> str:
    """Format a number with three or four significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def format_failure(error: Exception) -> str:
    """Format an error as the cell of a table; the traceback goes to stderr."""
    traceback.print_exception(error)
    lines = str(error).splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0].replace('|', '/')[:200]}"


def free_memory() -> None:
    """Free unreferenced memory, so that the next backend has the whole device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select rows."""
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="STAGE/ROW", help="rows to measure, for example 'int4/*'"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and exit")


def run_table(
    options: argparse.Namespace,
    heading: str,
    stages: list[Stage],
    comparisons: Iterable[Comparison] = (),
    derive: Callable[[dict[str, float]], None] = lambda results: None,
) -> None:
    """Print the heading, the rows and the comparisons that `options` select, or with --list the names of all rows.

    Args:
        derive: called before the comparisons; adds numbers to the results that follow from the measured ones.
    """
    if options.list:
        list_rows(stages)
        return
    show(f"{heading}\n")
    table = Table(options.only)
    try:
        table.run(stages)
    finally:
        derive(table.results)
        table.compare(comparisons)


def list_rows(stages: Iterable[Stage]) -> None:
    """Print the names of all rows."""
    for stage in stages:
        for row in stage.rows:
            show(f"{stage.name}/{row.name}: {row.description}" + (f" ({row.target})" if row.target else ""))
