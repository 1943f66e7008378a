"""The questions of an evaluation and of its controls, as rows of a run of `visualglm.batch`."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visualglm.batch.rows import Columns
from visualglm.batch.tasks import Task

from .answers import AnswerRow, to_answer
from .data.question import ImageReference, Question
from .data.records import read_records
from .report import SWAPPED, WITHOUT_IMAGE
from .swaps import SwappedImages, choose_swapped_images

OWN = "own"  # the condition in which each question is asked about its own image
CONDITION, QUESTION_KEY = "condition", "question_key"  # columns of the output
MIN_SWAPPED_SHARE = 0.1  # of the questions; with fewer pairs, images of other questions are swapped, too
Images = Mapping[str, ImageReference | None]  # by key of the question


class QuestionTasks:
    """The questions in all conditions; iterating yields a task for each.

    Args:
        path: the file of the questions, for messages.
        questions: the questions.
        conditions: for each condition, the images to ask about, by key of the question.
        scored: answers to score, by key of the question, in place of the letters of its options.
    """

    has_keys = True  # rows are identified by condition and key, not by their numbers
    columns = Columns()

    def __init__(
        self,
        path: Path,
        questions: Sequence[Question],
        conditions: Mapping[str, Images],
        scored: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.asked = questions
        self.conditions = conditions
        self.scored = scored

    @property
    def count(self) -> int:
        """Number of tasks."""
        return sum(map(len, self.conditions.values()))

    @property
    def questions(self) -> dict[str, Any]:
        """Number and digest of the questions, by which a run recognizes its own answers."""
        digest = hashlib.sha256()
        for question in self.asked:
            digest.update(repr(question).encode())
        if self.scored is not None:
            digest.update(repr(sorted(self.scored.items())).encode())
        return {"number": len(self.asked), "digest": digest.hexdigest()}

    def __iter__(self) -> Iterator[Task]:
        number = 0
        for condition, images in self.conditions.items():
            for question in self.asked:
                if question.key in images:
                    number += 1
                    task = to_task(number, condition, question, images[question.key])
                    yield task if self.scored is None else replace(task, choices=[self.scored[question.key]])


def choose_conditions(questions: Sequence[Question], *, with_controls: bool) -> tuple[dict[str, Images], SwappedImages]:
    """Return the images of each condition, and the choice of swapped images.

    Without controls, and for questions without images, each question is asked about its own image alone.
    """
    conditions: dict[str, Images] = {OWN: {question.key: question.image for question in questions}}
    with_images = [question for question in questions if question.image is not None]
    swapped = SwappedImages({}, 0, 0)
    if with_controls and with_images:
        swapped = choose_swapped_images(with_images)
        if swapped.count < MIN_SWAPPED_SHARE * swapped.total:
            swapped = choose_swapped_images(with_images, same_question_only=False)
        conditions[SWAPPED] = swapped.images
        conditions[WITHOUT_IMAGE] = {question.key: None for question in with_images}
    return conditions, swapped


def to_task(number: int, condition: str, question: Question, image: ImageReference | None) -> Task:
    """Return the task of a question about an image."""
    columns = {CONDITION: condition, QUESTION_KEY: question.key}
    if image is not None:
        columns["image"] = image.name
    return Task(
        f"{condition}/{question.key}",
        number,
        None if image is None else image_value(image),
        {1: question.prompt()},
        columns,
        question.history,
        question.language,
        [choice.letter for choice in question.choices],
    )


def image_value(image: ImageReference) -> str | bytes:
    """Return the path of an image, or the content of an image file."""
    source = image.source()
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        return str(source.absolute())
    content = io.BytesIO()
    source.save(content, "PNG", compress_level=1)  # five times faster, hardly larger
    return content.getvalue()


def read_conditions(output: Path) -> dict[str, list[AnswerRow]]:
    """Read the answers that a run has written, by condition.

    Raises:
        QuestionFileError: the file cannot be read, or holds other lines.
    """
    answers: dict[str, list[AnswerRow]] = {}
    for record in read_records(output):
        values = record.values
        row = to_answer({**values, "key": values.get(QUESTION_KEY)})
        answers.setdefault(str(values.get(CONDITION)), []).append(row)
    return answers


def keep_answered(questions: Iterable[Question], rows: Iterable[AnswerRow]) -> list[Question]:
    """Return the questions that have an answer: those whose images cannot be read have none."""
    keys = {row.key for row in rows}
    return [question for question in questions if question.key in keys]
