"""Check the rows of an input, answer a sample of them, and estimate the time for all."""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from model.command_line import print_text

from .progress import describe_duration
from .rows import ADDRESS, BadRow, Input
from .tasks import Result, Task

if TYPE_CHECKING:  # imports torch
    from .work import Answerer

MAX_SAMPLE = 512  # rows
MAX_LISTED = 5  # bad rows that are shown
SHOWN_ANSWERS = 3
# The speed is measured over this number of full batches, or seconds.
MEASURED_BATCHES, MEASURED_S = 5, 60.0


@dataclass
class Check:
    """Numbers and samples of the rows, good and bad.

    Attributes:
        rows, questions: numbers of those that can be asked.
        bad: rows that cannot be asked.
        sample: rows, evenly drawn.
    """

    rows: int = 0
    questions: int = 0
    bad: list[BadRow] = field(default_factory=list)
    sample: list[Task] = field(default_factory=list)

    def describe(self) -> Iterator[str]:
        """Yield lines with the numbers of rows, and the first bad rows."""
        yield f"Rows that can be answered: {self.rows:,}, with {self.questions:,} questions."
        if self.bad:
            yield f"Rows that cannot: {len(self.bad):,}"
        for row in self.bad[:MAX_LISTED]:
            yield f"  row {row.number}: {row.reason}"
        if len(self.bad) > MAX_LISTED:
            yield f"  and {len(self.bad) - MAX_LISTED:,} more"


def check_rows(rows: Input, limit: int | None = None) -> Check:
    """Read all rows, look for their image files, and draw a sample; images are not decoded."""
    found, draw = Check(), random.Random(0)
    for row in islice(rows, limit):
        problem = row if isinstance(row, BadRow) else find_problem(row)
        if problem is not None:
            found.bad.append(problem)
            continue
        assert isinstance(row, Task)  # as there is no problem
        found.rows += 1
        found.questions += len(row.questions)
        if len(found.sample) < MAX_SAMPLE:
            found.sample.append(row)
        elif (place := draw.randrange(found.rows)) < MAX_SAMPLE:  # reservoir sampling
            found.sample[place] = row
    draw.shuffle(found.sample)
    return found


def find_problem(task: Task) -> BadRow | None:
    """Return the reason why the image file of a row cannot be read; None if it is there, or is no file."""
    image = task.image
    if not isinstance(image, str) or ADDRESS.match(image.strip()) or Path(image).is_file():
        return None
    return BadRow(task.number, f"The image {image!r} was not found.", task.columns)


@dataclass(frozen=True)
class Speed:
    """The speed of answering, and a few answers.

    Attributes:
        answers_per_s: of one process at full batch.
        results: the first results.
    """

    answers_per_s: float
    results: list[Result]


def measure_speed(answerer: "Answerer", sample: list[Task]) -> Speed:
    """Answer a sample until the speed at full batch is known.

    The first batch is not measured: its answers begin together, and finish late.
    """
    batch = answerer.max_batch_size
    results: list[Result] = []
    times = [time.monotonic()]
    with closing(answerer.answer(sample)) as answers:  # type: ignore[type-var]
        for result in answers:
            results.append(result)
            times.append(time.monotonic())
            is_warm = len(results) > 2 * batch
            if len(results) > (MEASURED_BATCHES + 1) * batch or (is_warm and times[-1] - times[0] > MEASURED_S):
                break
    first = batch if len(results) > 2 * batch else 0
    return Speed((len(results) - first) / max(times[-1] - times[first], 1e-9), results[:SHOWN_ANSWERS])


def print_estimate(checked: Check, answerer: "Answerer", processes: int = 1) -> None:
    """Answer a sample, and print a few of its answers and the time that all rows need.

    Args:
        processes: number of processes that are going to answer; each is taken to be as fast as this one.
    """
    speed = measure_speed(answerer, checked.sample)
    for result in speed.results:
        question = result.task.questions.get(result.question, "")
        print_text(f"  {result.task.key} | {question} | {result.error or result.answer}")
    needed = checked.questions / (speed.answers_per_s * processes)
    several = f" with {processes} processes" if processes > 1 else ""
    print_text(
        f"All rows take about {describe_duration(needed)}{several} ({checked.rows / needed:.1f} rows/s), and the time "
        "to load the model."
    )
