"""Reads your own evaluation set: a folder of images and .jsonl files, one question per line.

    {"image": "picture.png", "question": "球在哪里？", "accepted": ["左上角", "左上"]}
    {"question": "Where is it?", "history": [["Is there a ball?", "Yes."]], "accepted": ["left"], "image": "2.png",
     "kind": "where", "language": "en"}                                                   (on one line)

This is the format `questions` of `visualglm evaluate`. The images lie in the folder or in its folder `images`. Without
`language`, it is detected from the question. `tiny.grading.accepted` defines which answers are correct. The swapped
image of a question is one whose accepted answers differ, as in `visualglm evaluate`.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from model import VisualGLMError, is_chinese
from tiny.evaluation.graded_question import GradedQuestion
from tiny.grading.accepted import is_accepted
from tiny.words.sentences import Language
from visualglm.evaluation.data.json_benchmarks import to_question
from visualglm.evaluation.data.question import Question
from visualglm.evaluation.data.records import Record, read_records
from visualglm.evaluation.errors import QuestionFileError
from visualglm.evaluation.swaps import choose_swapped_images

UNNAMED = "unnamed"  # kind of a question without "kind"


def read_questions(folder: Path) -> list[GradedQuestion]:
    """Return the questions of all .jsonl files in `folder`, sorted by file name.

    Raises:
        QuestionFileError: there are no questions, or a line is invalid; the message names file and line.
    """
    if not folder.is_dir():
        raise QuestionFileError(folder, None, "it is not a folder. Give a folder with .jsonl files of questions.")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    questions = [question for file in files for question in read_file(file)]
    if not questions:
        raise QuestionFileError(
            folder, None, "it holds no questions. Put them into .jsonl files, one JSON object per line."
        )
    swapped = choose_swapped_images(questions, same_question_only=False).images
    return [replace(question, swapped_image=swapped.get(question.key)) for question in questions]


def read_file(file: Path) -> Iterator[GradedQuestion]:
    """Yield the questions of a file; the name of the file is a part of their keys."""
    for record in read_records(file):
        question = to_question(record, None)
        check_kind(record, question)
        check_image(record, question)
        yield to_graded(replace(question, key=f"{file.name}, {question.key}", kind=question.kind or UNNAMED))


def check_kind(record: Record, question: Question) -> None:
    """Raise QuestionFileError if a kind could not be a line of the table."""
    if not question.kind.isprintable():
        raise record.error(f'its "kind" is {question.kind!r}; it should be a printable text.')


def check_image(record: Record, question: Question) -> None:
    """Raise QuestionFileError if an image cannot be decoded, so that it is found before the first question is asked."""
    if question.image is not None:
        try:
            question.image.load()
        except VisualGLMError as error:
            raise record.error(str(error)) from error


def to_graded(question: Question) -> GradedQuestion:
    """Return a question with the grader of its accepted answers, and with its language."""
    language = language_of(question)
    values = {item.name: getattr(question, item.name) for item in fields(Question)}
    grader = partial(is_accepted, language, question.text, question.answers)
    return GradedQuestion(**{**values, "language": language, "is_correct": grader})


def language_of(question: Question) -> Language:
    """Return the language that a question names, or else the language of its text."""
    chinese = is_chinese(question.text) if question.language is None else question.language == "zh"
    return "zh" if chinese else "en"
