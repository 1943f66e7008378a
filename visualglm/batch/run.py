"""Answer the rows of an input that have no answer in the output yet, with a backend of choice."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from model.command_line import print_text

from .bad_rows import BadRows, RowError
from .output import OutputFile
from .progress import Progress
from .record import check_record, make_record
from .rows import BadRow, RowSource
from .tasks import Backend, Result, Settings, Task


class Run:
    """A run of the program: selects unanswered questions and writes the results.

    Args:
        settings: the model and how it answers.
        rows: the input.
        output: path of the output; continued if an earlier run of the same kind began it.
        limit: number of rows from the start of the input; None for all.
        skip_bad: whether bad rows are left out.
        record: all that the answers depend on; None for what `make_record` returns.

    Raises:
        VisualGLMError: the output cannot be used, or belongs to another run.
    """

    def __init__(
        self,
        settings: Settings,
        rows: RowSource,
        output: Path,
        *,
        limit: int | None = None,
        skip_bad: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.rows = rows
        self.limit = limit
        record = make_record(settings, rows) if record is None else record
        self.output = OutputFile(output)
        try:
            check_record(output, record, rows, is_started=bool(self.output.done))
            self.bad = BadRows(output, skip=skip_bad)
        except BaseException:
            self.output.close()
            raise
        total = rows.count if limit is None else min(limit, rows.count)
        self.progress = Progress(total)
        self.open_questions: dict[int, int] = {}  # number of questions without an answer, by row number

    def finish(self, backend: Backend) -> None:
        """Answer the remaining questions with a backend, and write the answers.

        Raises:
            VisualGLMError: a bad row without `skip_bad`; the model or the output fails.
        """
        try:
            tasks = self.tasks()
            first = next(tasks, None)
            if first is not None:
                with closing(backend(self.settings, chain([first], tasks))) as results:  # type: ignore[type-var]
                    self._take(results)
        except RowError as error:
            raise RowError(f"{error}{self._describe_kept()}") from error
        except KeyboardInterrupt:
            self.progress.close()
            print_text(f"Stopped.{self._describe_kept()}", file=sys.stderr)
            raise
        finally:
            self.progress.close()
            self.output.close()

    def tasks(self) -> Iterator[Task]:
        """Yield the rows that have questions without an answer, with these questions."""
        for row in islice(self.rows, self.limit):
            if isinstance(row, BadRow):
                self.bad.add(row.number, row.reason, row.columns)
                self.progress.add_row()
                continue
            left = {number: text for number, text in row.questions.items() if (row.key, number) not in self.output.done}
            if left:
                self.open_questions[row.number] = len(left)
                yield replace(row, questions=left)
            else:
                self.progress.skip_row()

    def describe(self) -> str:
        """Return a summary of the run."""
        progress = self.progress
        if not progress.rows:
            return f"All {progress.former_rows:,} rows are answered already, in {self.output.path}."
        text = f"{progress.summarize()}: see {self.output.path}."
        if self.bad.rows:
            count = len(self.bad.rows)
            text += f" {count:,} row{' was' if count == 1 else 's were'} left out: see {self.bad.path}."
        return text

    def _take(self, results: Iterable[Result]) -> None:
        for result in results:
            if result.error:
                task = result.task
                self.bad.add(task.number, result.error, task.columns, task.key)
            else:
                self.output.write(result)
                self.progress.add_answer()
            number = result.task.number
            self.open_questions[number] -= 1 if result.question else self.open_questions[number]
            if not self.open_questions[number]:
                del self.open_questions[number]
                self.progress.add_row()

    def _describe_kept(self) -> str:
        done = len(self.output.done)
        return f" Answers so far: {done:,}, in {self.output.path}. The same command goes on after them."
