"""Turn the records of an input into rows with a key, an image and questions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from model import SettingError

from .input_files import FOLDER_COLUMN, InputError, Record, count_records, find_reader, read_folder
from .tasks import Task

IMAGE_COLUMNS = ("image", "img")  # the latter as in files for fine-tuning
QUESTION_COLUMNS = ("question", "prompt")
ID_COLUMN = "id"
ADDRESS = re.compile(r"(https?://|data:)", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """Names of columns; None to look for the usual names."""

    image: str | None = None
    question: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be asked about.

    Attributes:
        number: of the row in the input, from 1.
        reason: what is wrong, and what to do.
        columns: the columns of the row, if it could be read.
    """

    number: int
    reason: str
    columns: Mapping[str, Any] = field(default_factory=dict)


class RowSource(Protocol):
    """The rows of a run: the interface that `Run` needs. Each iteration reads them again."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def questions(self) -> Any:
        """The questions about all rows, as JSON values."""
        ...

    @property
    def columns(self) -> Columns:
        """The names of the columns."""
        ...

    @property
    def has_keys(self) -> bool:
        """Whether rows are identified by paths or ids, not by their numbers."""
        ...

    @property
    def count(self) -> int:
        """Number of rows."""
        ...

    def __iter__(self) -> Iterator[Task | BadRow]: ...


class Input:
    """The rows of a folder or a file; each iteration reads them again.

    Args:
        path: a folder of images, or a JSON, JSON Lines, CSV, TSV or Parquet file.
        questions: asked about each row, after the row's own questions.
        columns: names of the columns.

    Raises:
        SettingError: the input is not found, is empty or of an unknown kind, lacks a column, or has no question.
        InputError: the input cannot be read.
    """

    def __init__(self, path: Path, questions: Sequence[str], columns: Columns | None = None) -> None:
        self.path = path
        self.questions = list(questions)
        self.read = find_reader(path)
        self.folder = path if self.read is read_folder else path.parent
        first = next(self.records(), None)
        if first is None:
            what = "no images, such as .jpg or .png files" if self.read is read_folder else "no rows"
            raise SettingError(f"The input {str(path)!r} holds {what}. Check --input.")
        self.columns = self._find_columns(columns or Columns(), first if isinstance(first, Mapping) else {})

    def records(self) -> Iterator[Record]:
        """Yield the records of the input.

        Raises:
            InputError: the input cannot be read.
        """
        try:
            yield from self.read(self.path)
        except OSError as error:
            raise InputError(
                f"The input {str(self.path)!r} cannot be read ({error.strerror or error}). Check its permissions."
            ) from error

    @cached_property
    def count(self) -> int:
        """Number of rows."""
        return count_records(self.path)

    @property
    def has_keys(self) -> bool:
        """Whether rows are identified by paths or ids, not by their numbers."""
        return self.read is read_folder or self.columns.id is not None

    def __iter__(self) -> Iterator[Task | BadRow]:
        keys: dict[str, int] = {}
        for number, record in enumerate(self.records(), 1):
            row = self._to_task(number, record)
            if isinstance(row, Task) and keys.setdefault(row.key, number) != number:
                reason = f"Row {keys[row.key]} has the same {self.columns.id} {row.key!r}. Give each row its own."
                yield BadRow(number, reason, row.columns)
            else:
                yield row

    def _find_columns(self, wanted: Columns, first: Mapping[str, Any]) -> Columns:
        """Return the columns that this input has, judged by its first record."""
        if self.read is read_folder:
            if wanted != Columns():
                raise SettingError("A folder has no columns. Omit --image-column, --question-column and --id-column.")
            found = Columns(FOLDER_COLUMN)
        else:
            for flag, name in (("image", wanted.image), ("question", wanted.question), ("id", wanted.id)):
                if name is not None and first and name not in first:
                    raise SettingError(f"--{flag}-column: {self._describe_missing(name, first)}")
            own = () if self.questions else QUESTION_COLUMNS
            found = Columns(
                wanted.image or next((name for name in IMAGE_COLUMNS if name in first), None),
                wanted.question or next((name for name in own if name in first), None),
                wanted.id or (ID_COLUMN if ID_COLUMN in first else None),
            )
            if found.image is None and first:
                missing = self._describe_missing(IMAGE_COLUMNS[0], first)
                raise SettingError(f"{missing} Name the column of the images with --image-column.")
        if found.question is None and not self.questions and (first or self.read is read_folder):
            raise SettingError('There is no question. Give one with --question "...", or a column of questions.')
        return found

    def _describe_missing(self, name: str, first: Mapping[str, Any]) -> str:
        known = ", ".join(map(repr, first)) or "none"
        return f"{self.path} has no column {name!r}; its columns are {known}."

    def _to_task(self, number: int, record: Record) -> Task | BadRow:
        if isinstance(record, str):
            return BadRow(number, record)
        try:
            key = self._key(number, record)
            image = self._image(record)
            questions = self._questions(record)
        except ValueError as error:
            return BadRow(number, str(error), self._kept(record))
        return Task(key, number, image, dict(enumerate(questions, 1)), self._kept(record))

    def _key(self, number: int, record: Mapping[str, Any]) -> str:
        name = FOLDER_COLUMN if self.read is read_folder else self.columns.id
        if name is None:
            return str(number)
        value = record.get(name)
        if value is None or value == "" or isinstance(value, dict | list | float):
            raise ValueError(f"The row has no usable {name} ({value!r}). Give a text or an integer.")
        return str(value)

    def _image(self, record: Mapping[str, Any]) -> str | bytes | None:
        """Return the image of a row, a relative path made absolute; raise ValueError if there is none to find."""
        name = self.columns.image or IMAGE_COLUMNS[0]
        if name not in record:
            raise ValueError(f"The row has no {name!r}. For a question without an image, leave its value empty.")
        value = record[name]
        if isinstance(value, dict):  # as in data sets of Hugging Face
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise ValueError(f"The {name!r} of the row is of type {type(value).__name__}. Give a path or a URL.")
        return value if ADDRESS.match(value.strip()) else str((self.folder / value).absolute())

    def _questions(self, record: Mapping[str, Any]) -> list[str]:
        """Return the row's own questions, then those for all rows; raise ValueError if there is none."""
        name = self.columns.question
        own = record.get(name) if name is not None else None
        questions = [*(own if isinstance(own, list) else [] if own is None else [own]), *self.questions]
        if not questions or not all(isinstance(text, str) and text.strip() for text in questions):
            raise ValueError(f"The row has no question in {name!r}. Give a text, or a list of texts.")
        return questions

    def _kept(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns that are copied to the output: all but images in the row itself, and other bytes."""
        return {name: value for name, value in record.items() if not holds_data(value)}


def holds_data(value: Any) -> bool:
    """Return whether a value is the content of a file, not a text or a number."""
    if isinstance(value, dict):
        return any(map(holds_data, value.values()))
    return isinstance(value, bytes) or (isinstance(value, str) and value[:5].lower() == "data:")
