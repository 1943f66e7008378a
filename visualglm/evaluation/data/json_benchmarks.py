"""Read questions of POPE, of LLaVA-Bench, and of this project's own JSON lines."""

from collections.abc import Iterator
from pathlib import Path

from .question import Question
from .records import Record, find_image, read_records

ACCEPTED = ("accepted", "answers", "accepted_answers", "answer")


def read_pope(path: Path, images: Path | None) -> Iterator[Question]:
    """Yield POPE's questions.

        {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a dog in the image?",
         "label": "no"}                                                                       (on one line)

    The kind is the row's "category", or else the end of the file's name, such as "popular".
    """
    for record in read_records(path):
        label = record.text("label").lower()
        if label not in ("yes", "no"):
            raise record.error(f'its "label" is {label!r}; it should be "yes" or "no".')
        image = find_image(record, record.text("image"), images)
        kind = record.text("category", default=path.stem.rpartition("_")[2])
        key = record.text("question_id", default=str(record.number))
        yield Question(key, image, record.text("text", "question"), (label,), kind=kind, group=image.name)


def read_llava_bench(path: Path, images: Path | None, answers: Path | None) -> Iterator[Question]:
    """Yield the questions of LLaVA-Bench: {"question_id": 0, "image": "001.jpg", "text": "...", "category": "conv"}.

    Args:
        path: the questions, JSON lines.
        images: directory of the images.
        answers: reference answers, JSON lines {"question_id": 0, "text": "..."}; None for no accepted answers.
    """
    references = {} if answers is None else read_references(answers)
    for record in read_records(path):
        key = record.text("question_id")
        image = find_image(record, record.text("image"), images)
        accepted = references.get(key, ())
        kind = record.text("category", default="")
        yield Question(key, image, record.text("text"), accepted, kind=kind, group=image.name)


def read_references(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the reference answers of a file by question."""
    return {record.text("question_id"): (record.text("text"),) for record in read_records(path)}


def read_own(path: Path, images: Path | None) -> Iterator[Question]:
    """Yield questions in this project's own format, which `tiny.evaluate` reads too.

        {"image": "a.png", "question": "Where is the ball?", "accepted": ["left", "on the left"], "kind": "where",
         "language": "en", "history": [["Is there a ball?", "Yes."]]}                          (on one line)

    Only "question" and "accepted" are required; `ACCEPTED` lists other names of "accepted".
    """
    for record in read_records(path):
        yield to_question(record, images)


def to_question(record: Record, images: Path | None) -> Question:
    """Return the question of a row in this project's own format.

    Raises:
        QuestionFileError: a field is missing or has another type, or there is no such image.
    """
    accepted = record.texts(*ACCEPTED)
    if not accepted or not all(accepted):
        raise record.error('it has no accepted answer. Add "accepted": ["..."].')
    name = record.text("image", default="")
    return Question(
        record.text("id", "key", default=str(record.number)),
        find_image(record, name, images) if name else None,
        record.text("question"),
        accepted,
        kind=record.text("kind", default=""),
        group=name,
        history=read_history(record),
        language=read_language(record),
    )


def read_history(record: Record) -> tuple[tuple[str, str], ...]:
    """Return the "history" of a row: pairs of a question and its answer."""
    history = record.values.get("history") or []
    pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not pairs or not all(isinstance(text, str) for pair in history for text in pair):
        raise record.error('its "history" is not a list of pairs of texts: [["question", "answer"], ...].')
    return tuple((question, answer) for question, answer in history)


def read_language(record: Record) -> str | None:
    """Return the "language" of a row; None if it has none."""
    language = record.text("language", default="")
    if language not in ("", "zh", "en"):
        raise record.error(f'its "language" is {language!r}; it should be "zh" or "en".')
    return language or None
