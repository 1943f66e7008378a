"""Read the records of a folder of images, or of a JSON, JSON Lines, CSV, TSV or Parquet file, lazily."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from model import SettingError, VisualGLMError
from visualglm.cli import install_command

# A row of a file, or the reason why it cannot be read.
Record: TypeAlias = Mapping[str, Any] | str
Reader: TypeAlias = Callable[[Path], Iterator[Record]]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
FOLDER_COLUMN = "image"  # holds the path of an image relative to the folder
PARQUET_BATCH = 256  # rows in memory at a time; they may contain images
MAX_FIELD = 2**31 - 1  # characters of a CSV field; data URLs are long


class InputError(VisualGLMError):
    """The input cannot be read."""


def read_folder(folder: Path) -> Iterator[Record]:
    """Yield the path of each image in a folder and its subfolders, sorted; hidden files and folders are left out."""
    for directory, folders, files in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield {FOLDER_COLUMN: Path(directory, name).relative_to(folder).as_posix()}


def _raise_unreadable(error: OSError) -> None:
    raise InputError(f"The folder {str(error.filename)!r} cannot be read ({error.strerror}). Check its permissions.")


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yield the object in each line that is not blank."""
    with path.open("rb") as file:
        for line in file:
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield parse_object(text)


def parse_object(text: bytes) -> Record:
    """Parse a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"The line is not JSON ({error})."
    return as_record(value)


def as_record(value: Any) -> Record:
    """Return a JSON value if it is an object, else the reason why it is no row."""
    return value if isinstance(value, dict) else 'A row should be a JSON object such as {"image": "a.png"}.'


def read_json(path: Path) -> Iterator[Record]:
    """Yield the objects of a JSON file that holds a list of them."""
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error}). If each line is an object, name it {path.stem}.jsonl."
        ) from error
    if not isinstance(rows, list):
        raise InputError(f"{path} should hold a list of objects. If each line is one, name it {path.stem}.jsonl.")
    yield from map(as_record, rows)


def read_csv(path: Path) -> Iterator[Record]:
    """Yield the rows below the header of a CSV file, with the header's names."""
    yield from _read_separated(path, ",")


def read_tsv(path: Path) -> Iterator[Record]:
    """Yield the rows below the header of a file with columns between tabs, with the header's names."""
    yield from _read_separated(path, "\t")


def _read_separated(path: Path, separator: str) -> Iterator[Record]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=separator)
        try:
            for row in rows:
                yield _check_width(row)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text after line {rows.line_num}. Save it as UTF-8.") from error
        except csv.Error as error:
            raise InputError(f"{path} cannot be read at line {rows.line_num} ({error}). Correct that line.") from error


def _check_width(row: dict[Any, Any]) -> Record:
    if None in row:
        return f"The row has {len(row[None])} more values than the header has names. Put values with commas in quotes."
    return {name: value for name, value in row.items() if value is not None}


def read_parquet(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    for batch in _open_parquet(path).iter_batches(PARQUET_BATCH):
        yield from batch.to_pylist()


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise SettingError(f"Reading {path} needs pyarrow. To install it: {install_command('scale')}") from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file ({error}). Write it again, or use JSON Lines.") from error


READERS: Mapping[str, Reader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}


def find_reader(path: Path) -> Reader:
    """Return the function that reads the records of an input.

    Raises:
        SettingError: the input is not found, or of an unknown kind.
    """
    if path.is_dir():
        return read_folder
    if not path.exists():
        raise SettingError(f"The input {str(path)!r} was not found. Check the spelling of --input.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        advice = " Give the folder of the image." if path.suffix.lower() in IMAGE_SUFFIXES else ""
        kinds = ", ".join(READERS)
        raise SettingError(f"The input {str(path)!r} is neither a folder nor a {kinds} file.{advice}")
    return reader


def count_records(path: Path) -> int:
    """Count the records of an input."""
    reader = find_reader(path)
    if reader is read_json_lines:  # without parsing them
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    if reader is read_parquet:
        return int(_open_parquet(path).metadata.num_rows)
    return sum(1 for _ in reader(path))
