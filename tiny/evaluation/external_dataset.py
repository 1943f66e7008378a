"""Reads your own evaluation set: a folder of images and .jsonl files, one question per line.

    {"image": "picture.png", "question": "球在哪里？", "accepted": ["左上角", "左上"]}
    {"question": "Where is it?", "history": [["Is there a ball?", "Yes."]], "accepted": ["left"], "image": "2.png",
     "kind": "where", "language": "en"}                                                   (on one line)

`image` is a path relative to the file's folder; without it the question has no image. `answers`, `accepted_answers` and
`answer`, a string or a list, are synonyms of `accepted`. Without `language`, it is detected from the question.
`tiny.grading.accepted` defines which answers are correct. The swapped image of a question is the next image of the
set; its correct answer may be the same.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from model import VisualGLMError, is_chinese
from model.images.preprocess import load_image
from tiny.evaluation.results import ImageSource, Question
from tiny.grading.accepted import is_accepted
from tiny.words.sentences import LANGUAGES, Language

ACCEPTED = ("accepted", "answers", "accepted_answers", "answer")
UNNAMED = "unnamed"  # kind of a question without "kind"


class QuestionFileError(VisualGLMError):
    """The folder of questions does not exist, or a file in it is unreadable or invalid."""


def read_questions(folder: Path) -> list[Question]:
    """Return the questions of all .jsonl files in `folder`, sorted by file name.

    Raises:
        QuestionFileError: there are no questions, or a line is invalid; the message names file and line.
    """
    if not folder.is_dir():
        raise QuestionFileError(f"{folder} is not a folder. Give a folder with .jsonl files of questions.")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    questions = [question for file in files for question in _read_file(file)]
    if not questions:
        raise QuestionFileError(f"{folder} holds no questions. Put them into .jsonl files, one JSON object per line.")
    return _assign_swapped_images(questions)


def _read_file(file: Path) -> Iterator[Question]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionFileError(f"{file} cannot be read ({error}). It must be UTF-8 text.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _read_question(line, file.parent)
            except (ValueError, VisualGLMError) as error:
                raise QuestionFileError(f"{file}, line {number}: {error}") from error


def _read_question(line: str, folder: Path) -> Question:
    """Parse one line.

    Raises:
        ValueError, ImageError: the line is invalid; the message says why.
    """
    fields = _read_object(line)
    text = fields.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ValueError('"question" is missing or empty.')
    accepted = _read_accepted(fields)
    language = _read_language(fields, text)
    grade = partial(is_accepted, language, text, accepted)
    history = _read_history(fields.get("history") or [])
    return Question(_read_kind(fields), language, history, text, accepted, grade, _read_image(fields, folder))


def _read_object(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
        json.dumps(fields, ensure_ascii=False).encode()  # rejects lone surrogates such as "\ud83d", which have no UTF-8
    except (json.JSONDecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"this is not JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise ValueError('this is not a JSON object like {"question": ...}.')
    return fields


def _read_accepted(fields: dict[str, Any]) -> tuple[str, ...]:
    given: Any = next((fields[name] for name in ACCEPTED if fields.get(name) is not None), [])
    answers = given if isinstance(given, list) else [given]
    texts = tuple(str(item) if type(item) in (int, float) else item for item in answers)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('an answer in "accepted" is not a string.')
    if not texts or not all(text.strip() for text in texts):
        raise ValueError('there are no accepted answers; add "accepted": ["..."].')
    return texts


def _read_language(fields: dict[str, Any], text: str) -> Language:
    language = fields.get("language") or ("zh" if is_chinese(text) else "en")
    for known in LANGUAGES:
        if language == known:
            return known
    raise ValueError(f'"language" is {language!r}; it must be "zh" or "en".')


def _read_kind(fields: dict[str, Any]) -> str:
    kind = fields.get("kind") or UNNAMED
    if not isinstance(kind, str) or not kind.isprintable():
        raise ValueError(f'"kind" is {kind!r}; it must be a printable string.')
    return kind


def _read_history(turns: Any) -> tuple[tuple[str, str], ...]:
    pairs = isinstance(turns, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in turns)
    if not pairs or not all(isinstance(text, str) for pair in turns for text in pair):
        raise ValueError('"history" must be a list of pairs of strings: [["question", "answer"], ...].')
    return tuple((question, answer) for question, answer in turns)


def _read_image(fields: dict[str, Any], folder: Path) -> ImageSource | None:
    """Return a line's image. It is decoded once here, so that errors are found before the evaluation starts."""
    name = fields.get("image")
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise ValueError('"image" must be the path of an image.')
    path = folder / name
    if not path.is_file():
        raise ValueError(f"there is no image {path}; its path is relative to the folder of this file.")
    load_image(path)
    return ImageSource(str(path), partial(load_image, path))


def _assign_swapped_images(questions: list[Question]) -> list[Question]:
    """Give each question the next image of the set as its swapped image, if there are several images."""
    images = {question.image.source: question.image for question in questions if question.image}
    sources = list(images)
    following = dict(zip(sources, sources[1:] + sources[:1], strict=True)) if len(sources) > 1 else {}
    return [
        replace(question, swapped_image=images[following[question.image.source]])
        if question.image and following
        else question
        for question in questions
    ]
