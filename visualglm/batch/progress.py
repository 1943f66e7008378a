"""Show how many rows are answered, how fast, and how long the rest will take."""

import sys
import time
from typing import Any

from model.command_line import print_text

NOTE_INTERVAL_S = 60.0  # between lines where no bar can be shown
MIN_SECONDS = 1.0  # of which a speed is told


class Progress:
    """A bar at a terminal; elsewhere a line per minute. Both begin with the first answer, after the model is loaded.

    Args:
        total: number of rows to be answered, including those that were answered before.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.rows = self.former_rows = self.answers = 0
        self.bar: Any = None
        self.started = self.noted = time.monotonic()

    def skip_row(self) -> None:
        """Count a row that was answered before; it does not count for the speed."""
        self.former_rows += 1
        if self.bar is not None:
            self.bar.initial += 1
            self.bar.n += 1

    def add_answer(self) -> None:
        """Count an answer."""
        self._start()
        self.answers += 1

    def add_row(self) -> None:
        """Count a row that is finished, and show it."""
        self._start()
        self.rows += 1
        self.bar.update()
        if self.bar.disable and time.monotonic() - self.noted > NOTE_INTERVAL_S:
            self.noted = time.monotonic()
            print_text(self.describe(), file=sys.stderr)

    def _start(self) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.started = self.noted = time.monotonic()
            self.bar = tqdm(
                total=self.total,
                initial=self.former_rows,
                unit="row",
                desc="Answering",
                smoothing=0.05,
                leave=False,
                disable=None,
            )

    @property
    def seconds(self) -> float:
        """Seconds since the first answer."""
        return time.monotonic() - self.started

    @property
    def rows_per_s(self) -> float:
        """Rows per second since the first answer."""
        return self.rows / max(self.seconds, 1e-9)

    def describe(self) -> str:
        """Return the state in a line, such as "1,200 of 30,000 rows, 41.0 rows/s, about 12 minutes left"."""
        finished = self.rows + self.former_rows
        left = describe_duration((self.total - finished) / max(self.rows_per_s, 1e-9))
        return f"{finished:,} of {self.total:,} rows, {self.rows_per_s:.1f} rows/s, about {left} left"

    def summarize(self) -> str:
        """Return the number of answers and the speed, such as "300 answers in 20 seconds, 15.0 rows/s"."""
        text = f"{self.answers:,} answer{'' if self.answers == 1 else 's'}"
        if self.seconds < MIN_SECONDS:
            return text
        return f"{text} in {describe_duration(self.seconds)}, {self.rows_per_s:.1f} rows/s"

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


def describe_duration(seconds: float) -> str:
    """Return a duration in words, in the largest unit with a value of at least 2."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    count = max(1, round(seconds))
    return f"{count} second{'' if count == 1 else 's'}"
