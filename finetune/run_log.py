"""Read the log of a run, which training may still be writing, or may have stopped writing at any moment."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from model.errors import SettingError

LOG_NAME = "log.jsonl"
STEP = "step"  # key of every record
MAX_NAMED = 3  # runs that an error message names

Points = list[tuple[int, float]]  # (step, value), in ascending order of the steps


@dataclass(frozen=True)
class RunLog:
    """The log of a run.

    Attributes:
        run: directory of the run.
        records: one record per step, in ascending order, with all that was logged for the step.
    """

    run: Path
    records: Sequence[Mapping[str, Any]]

    @cached_property
    def numbers(self) -> dict[str, Points]:
        """Return all finite values of each key that has any, in the order in which the keys were logged first."""
        numbers: dict[str, Points] = {}
        for record in self.records:
            for key, value in record.items():
                if is_number(value) and key != STEP:
                    numbers.setdefault(key, []).append((record[STEP], float(value)))
        return numbers

    def last(self, key: str) -> Any:
        """Return the newest value of a key; None if it was never logged."""
        return next((record[key] for record in reversed(self.records) if record.get(key) is not None), None)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_run_log(run: Path) -> RunLog:
    """Read the log of a run.

    Lines that are no records, such as a line that was cut off, are left out. A resumed training logs steps again: the
    later record of a step counts, and what was logged after the step from which it was resumed does not.

    Raises:
        SettingError: the directory has no log, or it cannot be read.
    """
    try:
        with (run / LOG_NAME).open(encoding="utf-8", errors="replace") as file:
            return RunLog(run, merge_records(parse_lines(file)))
    except OSError as error:
        raise SettingError(
            f"{run / LOG_NAME} cannot be read: {error.strerror}. Give the directory of a run."
        ) from error


def parse_lines(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of a log."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get(STEP)) is int:
            yield record


def merge_records(records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one record per step, without records that a resumed training has replaced."""
    merged: list[dict[str, Any]] = []
    for record in records:
        if merged and record[STEP] < merged[-1][STEP]:
            while merged and merged[-1][STEP] >= record[STEP]:
                merged.pop()
        if merged and merged[-1][STEP] == record[STEP]:
            merged[-1] |= record
        else:
            merged.append(dict(record))
    return merged


def find_run(path: Path) -> Path:
    """Return the run that a path names: its directory, its log, or one of its checkpoints.

    Raises:
        SettingError: it is no run; the message names runs in the directory.
    """
    for folder in (path, path.parent):
        if (folder / LOG_NAME).is_file():
            return folder
    if not path.exists():
        raise SettingError(f"{path} does not exist. Give the directory of a run, such as checkpoints/RUN.")
    runs = sorted(log.parent for log in path.glob(f"*/{LOG_NAME}")) if path.is_dir() else []
    named = "".join(f"\n  {run}" for run in runs[-MAX_NAMED:])
    advice = f"It contains runs:{named}" if runs else "Give the directory of a run, such as checkpoints/RUN."
    raise SettingError(f"{path} is not a run: it has no {LOG_NAME}. {advice}")
