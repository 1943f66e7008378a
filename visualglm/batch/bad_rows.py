"""Rows that cannot be answered: they end the program, or are listed in a file."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import VisualGLMError

from .output import OutputError, encode_line


class RowError(VisualGLMError):
    """A row that cannot be answered, in a program that may leave out none."""


class BadRows:
    """Takes rows that cannot be answered, from several threads.

    The list of an earlier run is removed: its rows are tried again.

    Args:
        output: path of the output; the list lies beside it.
        skip: whether bad rows are listed; otherwise the first one raises an error.
    """

    def __init__(self, output: Path, *, skip: bool) -> None:
        self.path = output.with_name(f"{output.name}.errors.jsonl")
        self.skip = skip
        self.rows: set[int] = set()
        self.lock = threading.Lock()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{str(self.path)!r} cannot be replaced ({error.strerror}). Remove it.") from error

    def add(self, number: int, reason: str, columns: Mapping[str, Any], key: str | None = None) -> None:
        """List a row.

        Args:
            number: of the row in the input, from 1.
            reason: what is wrong, and what to do.
            columns: the columns of the row.
            key: of the row, if it has one.

        Raises:
            RowError: bad rows are not to be left out.
            OutputError: the list cannot be written.
        """
        if not self.skip:
            name = f"Row {number}" if key in (None, str(number)) else f"Row {number} ({key})"
            raise RowError(f"{name}: {reason} To leave out such rows and list them in a file, add --skip-bad.")
        line = encode_line({"row": number, "key": key, "error": reason, **columns})
        with self.lock:
            self.rows.add(number)
            try:
                with self.path.open("ab") as file:
                    file.write(line)
            except OSError as error:
                raise OutputError(f"{str(self.path)!r} cannot be written ({error.strerror}).") from error
