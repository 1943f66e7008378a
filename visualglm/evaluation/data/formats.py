"""The formats of question files: which one a file has, and the questions in it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EvaluationError, QuestionFileError
from .coco import CAPTION_QUESTION, read_captions, read_vqa
from .json_benchmarks import ACCEPTED, read_llava_bench, read_own, read_pope
from .mme import mme_categories, read_mme
from .question import Question
from .records import Record, first_character, read_json, read_records, shorten
from .training_rows import ReadTrainingRows, read_training_rows
from .tsv import read_columns, read_tsv

HEAD_BYTES = 4096


@dataclass(frozen=True)
class QuestionFile:
    """A file or folder of questions; each iteration reads it again, lazily.

    Attributes:
        path: the file or folder.
        task: its format, a key of `FORMATS`.
        images: directory of the images; None if they lie beside the file.
        annotations: VQAv2's annotations, or LLaVA-Bench's reference answers; None if there are none, or if they lie
            beside the file.
        read_rows: reads fine-tuning data: `finetune.rows.read_rows`.
        question: the question about each image of COCO captions.
    """

    path: Path
    task: str
    images: Path | None = None
    annotations: Path | None = None
    read_rows: ReadTrainingRows | None = None
    question: str = CAPTION_QUESTION

    def __iter__(self) -> Iterator[Question]:
        return FORMATS[self.task](self)


def read_training_file(file: QuestionFile) -> Iterator[Question]:
    """Yield the questions of a file of fine-tuning data."""
    if file.read_rows is None:
        raise EvaluationError(f"{file.path} is fine-tuning data. Give the function that reads it: read_rows=")
    return read_training_rows(file.path, file.read_rows)


FORMATS: dict[str, Callable[[QuestionFile], Iterator[Question]]] = {
    "pope": lambda file: read_pope(file.path, file.images),
    "mme": lambda file: read_mme(file.path),
    "vqa": lambda file: read_vqa(file.path, file.images, file.annotations),
    "captions": lambda file: read_captions(file.path, file.images, file.question),
    "choices": lambda file: read_tsv(file.path, file.images),
    "llava-bench": lambda file: read_llava_bench(file.path, file.images, file.annotations),
    "questions": lambda file: read_own(file.path, file.images),
    "training": read_training_file,
}
ADVICE = f"Give its format as the task: one of {', '.join(FORMATS)}."


def open_questions(
    path: str | Path,
    task: str | None = None,
    *,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    read_rows: ReadTrainingRows | None = None,
    question: str = CAPTION_QUESTION,
) -> QuestionFile:
    """Return the questions of a file or folder.

    Args:
        path: the file or folder.
        task: its format, a key of `FORMATS`; None recognizes it.
        images, annotations, read_rows, question: see `QuestionFile`.

    Raises:
        EvaluationError: there is no such task.
        QuestionFileError: the file cannot be read, or its format is not recognized.
    """
    path = Path(path)
    if task is not None and task not in FORMATS:
        raise EvaluationError(f"There is no task {task!r}. Choose one of {', '.join(FORMATS)}.")
    if not path.exists():
        raise QuestionFileError(path, None, "it does not exist. Check the path.")
    return QuestionFile(
        path,
        task or recognize(path),
        None if images is None else Path(images),
        None if annotations is None else Path(annotations),
        read_rows,
        question,
    )


def recognize(path: Path) -> str:
    """Return the format of a file or folder, a key of `FORMATS`.

    Raises:
        QuestionFileError: it has none of the formats.
    """
    if path.is_dir():
        if mme_categories(path):
            return "mme"
        raise QuestionFileError(path, None, "it is a folder, but not one of MME. Give a file of questions.")
    if is_table(path):
        return "choices"
    first = first_character(path)
    if not first:
        raise QuestionFileError(path, None, "it is empty.")
    if first not in "[{":
        raise QuestionFileError(path, None, f"it is neither JSON nor a table of VLMEvalKit. {ADVICE}")
    return recognize_object(path) or recognize_row(next(read_records(path)))


def is_table(path: Path) -> bool:
    """Return whether a file is tab-separated with a column of questions."""
    try:
        with path.open("rb") as file:
            return "question" in read_columns(file.readline(HEAD_BYTES))
    except OSError as error:
        raise QuestionFileError(path, None, f"it cannot be read ({error.strerror}). Check the path.") from error


def recognize_object(path: Path) -> str | None:
    """Return the format of a file that is one JSON object; None for a list or JSON lines."""
    with path.open(encoding="utf-8-sig") as file:
        line = next((line for line in file if line.strip()), "")
        is_alone = all(not rest.strip() for rest in file)
    if line.lstrip().startswith("[") or (not is_alone and is_object(line)):
        return None
    content = read_json(path)
    if isinstance(content.get("questions"), list):
        return "vqa"
    return "captions" if {"images", "annotations"} <= {*content} else None


def is_object(line: str) -> bool:
    """Return whether a line is a JSON object."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def recognize_row(record: Record) -> str:
    """Return the format of JSON lines by their first row.

    Raises:
        QuestionFileError: the row has none of the formats.
    """
    keys = {*record.values}
    if keys & {"conversations", "messages"} or {"prompt", "label"} <= keys:
        return "training"
    if {"label", "image"} <= keys and keys & {"text", "question"}:
        return "pope"
    if "question" in keys and keys & {*ACCEPTED}:
        return "questions"
    if {"question_id", "image", "text"} <= keys:
        return "llava-bench"
    raise record.error(f"its fields {shorten([*record.values])} belong to no known format. {ADVICE}")
