"""Read VLMEvalKit's tables: tab-separated, images in base64, options in the columns A to Z."""

import binascii
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from model.errors import ImageError

from ..errors import QuestionFileError
from .question import LETTERS, Choice, ImageReference, Question
from .records import Record, find_image, unreadable

MAX_REFERENCE = 64  # a shorter value of the column "image" is the index of the row that has the image
MAX_FIELD = min(sys.maxsize, 2**31 - 1)  # characters of a field: an image in base64


@dataclass(frozen=True)
class TableImage(ImageReference):
    """An image in base64 in a table.

    Attributes:
        path: the table.
        offset: position in bytes of the row.
        column: number of the column, from 0.
    """

    path: Path
    offset: int
    column: int

    def source(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return binascii.a2b_base64(next(Rows(file))[1][self.column])
        except (OSError, StopIteration, IndexError, ValueError, csv.Error) as error:
            raise ImageError(
                f"The image {self.name} in {self.path} is not base64 ({error}). Check the table's row."
            ) from error


class Rows:
    """Iterates over the rows of a table from the position of a file: offset in bytes and fields of each."""

    def __init__(self, file: BinaryIO) -> None:
        csv.field_size_limit(MAX_FIELD)
        self._file = file
        self._offset = file.tell()
        self._reader = csv.reader(self._lines(), delimiter="\t")

    def _lines(self) -> Iterator[str]:
        for line in self._file:
            self._offset += len(line)
            yield line.decode("utf-8-sig")

    def __iter__(self) -> "Rows":
        return self

    def __next__(self) -> tuple[int, list[str]]:
        start = self._offset
        return start, next(self._reader)


def read_tsv(path: Path, images: Path | None) -> Iterator[Question]:
    """Yield the questions of a table of VLMEvalKit.

    Columns: index, question, answer; image (base64, or the index of an earlier row with the same image) or image_path;
    optional hint, A to Z (options; an empty one is omitted), category. With options the answer is a letter.

    Raises:
        QuestionFileError: the table has another format, or an image is missing.
    """
    try:
        with path.open("rb") as file:
            yield from read_rows(path, file, images)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    except csv.Error as error:
        raise QuestionFileError(path, None, f"it is not a tab-separated table ({error}).") from error


def read_columns(head: bytes) -> list[str]:
    """Return the column names in the first line of a table; [] for a file that is no table."""
    try:
        names = next(Rows(BytesIO(head.split(b"\n")[0])), (0, []))[1]
    except (UnicodeDecodeError, csv.Error):
        return []
    return [name.strip() for name in names]


def read_rows(path: Path, file: BinaryIO, images: Path | None) -> Iterator[Question]:
    """Yield the questions of an open table."""
    rows = Rows(file)
    columns = [name.strip() for name in next(rows, (0, []))[1]]
    if "question" not in columns or not {"image", "image_path"} & {*columns}:
        raise QuestionFileError(path, None, f'it lacks the columns "question" and "image". It has {columns}.')
    embedded: dict[str, TableImage] = {}
    for number, (offset, fields) in enumerate(rows, start=1):
        if len(fields) != len(columns):
            raise QuestionFileError(path, number, f"it has {len(fields)} columns, and the header {len(columns)}.")
        record = Record(path, number, dict(zip(columns, fields, strict=True)))
        yield to_question(record, table_image(record, offset, columns, embedded, images))


def table_image(
    record: Record, offset: int, columns: list[str], embedded: dict[str, TableImage], images: Path | None
) -> ImageReference:
    """Return the image of a row, and note embedded images by index."""
    value = record.values.get("image") or ""
    if not value:
        return find_image(record, record.text("image_path"), images)
    if value.startswith("["):
        raise record.error("it has several images; the model reads one. Remove the row.")
    if len(value) > MAX_REFERENCE:
        index = record.text("index", default=str(record.number))
        embedded[index] = TableImage(index, record.path, offset, columns.index("image"))
        return embedded[index]
    if value not in embedded:
        raise record.error(f'its "image" is {value!r}, which is neither base64 nor the index of an earlier row.')
    return embedded[value]


def to_question(record: Record, image: ImageReference) -> Question:
    """Return the question of a row.

    Raises:
        QuestionFileError: the answer is not the letter of an option.
    """
    choices = tuple(Choice(letter, text) for letter in LETTERS if (text := record.text(letter, default="")))
    answer = record.text("answer", default="")
    if choices and answer and answer not in {choice.letter for choice in choices}:
        raise record.error(f'its "answer" is {answer!r}, not the letter of one of its {len(choices)} options.')
    return Question(
        record.text("index", default=str(record.number)),
        image,
        record.text("question"),
        (answer,) if answer else (),
        choices,
        record.text("category", default=""),
        image.name,
        record.text("hint", default=""),
    )
