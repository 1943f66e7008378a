"""The errors of fine-tuning that are shown to users.

    VisualGLMError
    ├── DataError             a file of training data cannot be used
    │   └── BadRowError       a row of it cannot be used
    └── TrainingError         a training cannot start or continue

Like those of `model.errors` they give advice.
"""

from typing import Any

from model.errors import VisualGLMError

MAX_QUOTE_LENGTH = 80


class DataError(VisualGLMError):
    """A file of training data that cannot be used."""


class BadRowError(DataError):
    """A row of training data that cannot be used.

    Attributes:
        number: number of the row, counted from 1; in JSON lines the number of its line.
        reason: description of the error.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"Row {number}: {reason}")
        self.number = number
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadRowError"], tuple[int, str]]:  # workers pickle it
        return type(self), (self.number, self.reason)


class RowFormatError(Exception):
    """An error in the format of a row; `parse_row` turns it into a BadRowError with the row's number."""


class TrainingError(VisualGLMError):
    """A training that cannot start or continue."""


def quote(value: Any) -> str:
    """Return the `repr` of a value; if longer than `MAX_QUOTE_LENGTH` characters, its beginning with an ellipsis."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTE_LENGTH else f"{text[:MAX_QUOTE_LENGTH]}…"
