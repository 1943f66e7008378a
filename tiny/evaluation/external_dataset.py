"""Pictures and questions made elsewhere: a folder of .jsonl files, one question a line.

    {"image": "picture.png", "question": "球在哪里？", "accepted": ["左上角", "左上"]}
    {"question": "Where is it?", "history": [["Is there a ball?", "Yes."]], "accepted": ["left"], "image": "2.png",
     "kind": "where", "language": "en"}                                                   (on one line)

`image` is a path from the file's folder; without it there is no picture. `answers`, `accepted_answers` and `answer`, a
text or a list, mean the same as `accepted`. The language is that of the question unless it is given. What counts as
right is written in `tiny.grading.accepted`. The swapped picture is the next one of the set, whose right answer may be
the same.
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
UNNAMED = "unnamed"  # kind of the questions that name none


class QuestionFileError(VisualGLMError):
    """A folder of questions that cannot be found, read or used."""


def read_questions(folder: Path) -> list[Question]:
    """Return the questions of every .jsonl file in `folder`, in the order of their names.

    Raises:
        QuestionFileError: there is none, or one cannot be used; the message names file and line.
    """
    if not folder.is_dir():
        raise QuestionFileError(f"{folder} is not a folder. Give one that holds .jsonl files of questions.")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    questions = [question for file in files for question in _read_file(file)]
    if not questions:
        raise QuestionFileError(f"{folder} holds no questions. Put them into .jsonl files, one JSON object a line.")
    return _assign_swapped_images(questions)


def _read_file(file: Path) -> Iterator[Question]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionFileError(f"{file} cannot be read ({error}). It should be text in UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _read_question(line, file.parent)
            except (ValueError, VisualGLMError) as error:
                raise QuestionFileError(f"{file}, line {number}: {error}") from error


def _read_question(line: str, folder: Path) -> Question:
    """Read one line.

    Raises:
        ValueError, ImageError: it says what is wrong with the line.
    """
    fields = _read_object(line)
    text = fields.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ValueError('there is no "question".')
    accepted = _read_accepted(fields)
    language = _read_language(fields, text)
    grade = partial(is_accepted, language, text, accepted)
    history = _read_history(fields.get("history") or [])
    return Question(_read_kind(fields), language, history, text, accepted, grade, _read_image(fields, folder))


def _read_object(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
        json.dumps(fields, ensure_ascii=False).encode()  # half a character, as "\ud83d", can be asked of no model
    except (json.JSONDecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"this is not JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise ValueError('this is not a JSON object, as {"question": ...} is.')
    return fields


def _read_accepted(fields: dict[str, Any]) -> tuple[str, ...]:
    given: Any = next((fields[name] for name in ACCEPTED if fields.get(name) is not None), [])
    answers = given if isinstance(given, list) else [given]
    texts = tuple(str(item) if type(item) in (int, float) else item for item in answers)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('an answer under "accepted" is not a text.')
    if not texts or not all(text.strip() for text in texts):
        raise ValueError('there are no accepted answers; give some: "accepted": ["..."].')
    return texts


def _read_language(fields: dict[str, Any], text: str) -> Language:
    language = fields.get("language") or ("zh" if is_chinese(text) else "en")
    for known in LANGUAGES:
        if language == known:
            return known
    raise ValueError(f'"language" is {language!r}; it should be "zh" or "en".')


def _read_kind(fields: dict[str, Any]) -> str:
    kind = fields.get("kind") or UNNAMED
    if not isinstance(kind, str) or not kind.isprintable():
        raise ValueError(f'"kind" is {kind!r}; it should be a word.')
    return kind


def _read_history(rounds: Any) -> tuple[tuple[str, str], ...]:
    pairs = isinstance(rounds, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in rounds)
    if not pairs or not all(isinstance(text, str) for pair in rounds for text in pair):
        raise ValueError('"history" should be pairs of texts: [["question", "answer"], ...].')
    return tuple((question, answer) for question, answer in rounds)


def _read_image(fields: dict[str, Any], folder: Path) -> ImageSource | None:
    """The picture of a line, read once so that nothing can go wrong later, and again when it is asked about."""
    name = fields.get("image")
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise ValueError('"image" should be the path of a picture.')
    path = folder / name
    if not path.is_file():
        raise ValueError(f"there is no picture {path}; its path should start in the folder of this file.")
    load_image(path)
    return ImageSource(str(path), partial(load_image, path))


def _assign_swapped_images(questions: list[Question]) -> list[Question]:
    """Give each question the next picture of the set for its swapped one, if there are several."""
    images = {question.image.source: question.image for question in questions if question.image}
    sources = list(images)
    following = dict(zip(sources, sources[1:] + sources[:1], strict=True)) if len(sources) > 1 else {}
    return [
        replace(question, swapped_image=images[following[question.image.source]])
        if question.image and following
        else question
        for question in questions
    ]
