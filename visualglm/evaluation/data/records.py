"""Read files of JSON rows lazily, and the fields of a row with errors that name the file and the row."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import QuestionFileError
from .question import ImageFile

MAX_SHOWN = 80


def shorten(value: Any) -> str:
    """Return the `repr` of a value, at most `MAX_SHOWN` characters of it."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


@dataclass(frozen=True)
class Record:
    """A row of a file.

    Attributes:
        path: the file.
        number: number of the row, counted from 1.
        values: its fields.
    """

    path: Path
    number: int
    values: Mapping[str, Any]

    def error(self, reason: str) -> QuestionFileError:
        """Return an error that names this row."""
        return QuestionFileError(self.path, self.number, reason)

    def text(self, *names: str, default: str | None = None) -> str:
        """Return the first field of these names that is present, as stripped text; numbers become text.

        Raises:
            QuestionFileError: it is missing or empty and there is no default, or it is neither text nor a number.
        """
        for name in names:
            value = self.values.get(name)
            if value is None or value == "":
                continue
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                if text := str(value).strip():
                    return text
            else:
                raise self.error(f'its "{name}" is {shorten(value)}, which is not text.')
        if default is None:
            listed = " or ".join(f'"{name}"' for name in names)
            raise self.error(f"{listed} is missing or empty. Its fields are {shorten([*self.values])}.")
        return default

    def texts(self, *names: str) -> tuple[str, ...]:
        """Return a field that is a text or a list of texts.

        Raises:
            QuestionFileError: it is something else.
        """
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            items = value if isinstance(value, list) else [value]
            if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in items):
                raise self.error(f'its "{name}" is {shorten(value)}; it should be a text or a list of texts.')
            return tuple(str(item).strip() for item in items)
        return ()


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        QuestionFileError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> QuestionFileError:
    """Return the error for a file that cannot be read or is not UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        return QuestionFileError(path, None, "it is not UTF-8 text. Save it as UTF-8.")
    return QuestionFileError(path, None, f"it cannot be read ({error.strerror}). Check the path.")


def read_json(path: Path) -> Any:
    """Read a file that is one JSON value.

    Raises:
        QuestionFileError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise QuestionFileError(path, None, f"it is not JSON ({error}).") from error


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of JSON lines, one by one, or of a JSON list.

    Raises:
        QuestionFileError: the file cannot be read, or a row is not a JSON object.
    """
    if first_character(path) == "[":
        for number, value in enumerate(read_json(path), start=1):
            yield to_record(path, number, value)
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield to_record(path, number, parse_line(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def first_character(path: Path) -> str:
    """Return the first character of a text file that is not whitespace, "" for none.

    Raises:
        QuestionFileError: the file cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return next((line.lstrip()[0] for line in file if line.strip()), "")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def parse_line(path: Path, number: int, line: str) -> Any:
    """Decode a line of JSON lines."""
    try:
        value = json.loads(line)
        if "\\u" in line:  # rejects half of a pair such as "\\ud83d", which has no UTF-8
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise QuestionFileError(path, number, f"it is not JSON ({error}): {shorten(line.strip())}") from error


def to_record(path: Path, number: int, value: Any) -> Record:
    """Return a row, which has to be a JSON object."""
    if not isinstance(value, Mapping):
        raise QuestionFileError(path, number, f"it is {shorten(value)}, not an object in braces.")
    return Record(path, number, value)


def records_of(path: Path, content: Any, key: str) -> Iterator[Record]:
    """Yield the rows in the list `key` of a JSON object.

    Raises:
        QuestionFileError: there is no such list, or an element is not an object.
    """
    values = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(values, list):
        raise QuestionFileError(path, None, f'it has no list "{key}".')
    for number, value in enumerate(values, start=1):
        yield to_record(path, number, value)


def find_image(record: Record, names: str | tuple[str, ...], folder: Path | None) -> ImageFile:
    """Return a reference to the image of a row.

    Args:
        record: the row.
        names: possible names of the file.
        folder: directory of the images; None looks in the directory of the file and in its folder `images`.

    Raises:
        QuestionFileError: no such file exists.
    """
    names = (names,) if isinstance(names, str) else names
    near = record.path.parent
    folders = (near, near / "images") if folder is None else (folder,)
    for name in names:
        for directory in folders:
            path = directory / name.replace("\\", "/")
            if path.is_file():
                return ImageFile(name, path)
    advice = "Give the folder of the images." if folder is None else "Check the folder of the images."
    raise record.error(f"there is no image {shorten(names[0])} in {' or '.join(map(str, folders))}. {advice}")
