"""The errors of fine-tuning that a person may see.

    VisualGLMError
    ├── DataError             a file of training data that cannot be used
    │   └── BadRowError       one row of it that cannot
    └── TrainingError         a training that cannot go on

Like those of `model.errors` they say what to do.
"""

from typing import Any

from model.errors import VisualGLMError

MAX_QUOTE_LENGTH = 80


class DataError(VisualGLMError):
    """A file of training data that cannot be used."""


class BadRowError(DataError):
    """A row that cannot be trained on.

    Attributes:
        number: of the row, as a person counts: from 1; in JSON lines the number of its line.
        reason: what is wrong with it.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"Row {number}: {reason}")
        self.number = number
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadRowError"], tuple[int, str]]:  # worker processes send it
        return type(self), (self.number, self.reason)


class RowFormatError(Exception):
    """A fault of a row; `parse_row` adds its number."""


class TrainingError(VisualGLMError):
    """A training that cannot begin or go on."""


def quote(value: Any) -> str:
    """Return a value as Python writes it, in a length that a line holds."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTE_LENGTH else f"{text[:MAX_QUOTE_LENGTH]}…"
