"""Read VQAv2 questions with their annotations, and COCO captions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import QuestionFileError
from .question import Question
from .records import Record, find_image, read_json, records_of, shorten

CAPTION_QUESTION = "Describe the image in one sentence."


def read_vqa(path: Path, images: Path | None, annotations: Path | None) -> Iterator[Question]:
    """Yield VQAv2 questions, each with its ten annotated answers.

    Args:
        path: {"questions": [{"question_id": 1, "image_id": 2, "question": "..."}], "data_subtype": "val2014"}
        images: directory of the images, which are named COCO_val2014_000000000002.jpg, 000000000002.jpg or 2.jpg.
        annotations: {"annotations": [{"question_id": 1, "answers": [{"answer": "yes"}], "answer_type": "yes/no"}]};
            None looks for the official name beside the questions.

    Raises:
        QuestionFileError: a file or row has another format, a question has no annotation, or an image is missing.
    """
    content = read_json(path)
    annotated = read_annotations(annotations or find_annotations(path))
    for record in records_of(path, content, "questions"):
        key = record.text("question_id")
        if key not in annotated:
            raise record.error(f"the annotations have no question {key}. Give the annotations of the same split.")
        answers, kind = annotated[key]
        name = record.text("image", default="") or image_names(record, content)
        image = find_image(record, name, images)
        yield Question(key, image, record.text("question"), answers, kind=kind, group=image.name)


def image_names(record: Record, content: Any) -> tuple[str, ...]:
    """Return the possible file names of an image of COCO."""
    text = record.text("image_id")
    number = text.zfill(12)
    subtype = content.get("data_subtype")
    official = [f"COCO_{subtype}_{number}.jpg"] if subtype else []
    return (*official, f"{number}.jpg", f"{text}.jpg", f"{text}.png")


def find_annotations(path: Path) -> Path:
    """Return the file with the annotations of a file of questions, by its official name.

    Raises:
        QuestionFileError: there is none.
    """
    name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    annotations = path.with_name(name)
    if annotations == path or not annotations.is_file():
        raise QuestionFileError(path, None, f"its annotations {name} were not found beside it. Give their file.")
    return annotations


def read_annotations(path: Path) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return the answers and the answer type of each question of VQAv2."""
    return {
        record.text("question_id"): (read_answers(record), record.text("answer_type", default=""))
        for record in records_of(path, read_json(path), "annotations")
    }


def read_answers(record: Record) -> tuple[str, ...]:
    """Return the annotators' answers of an annotation."""
    answers = record.values.get("answers")
    if not isinstance(answers, list) or not answers:
        raise record.error(f'its "answers" are {shorten(answers)}, not a list of answers.')
    given = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    texts = tuple(text for text in given if isinstance(text, str))
    if len(texts) < len(given):
        raise record.error(f'its "answers" are {shorten(answers)}; each should be like {{"answer": "yes"}}.')
    return texts


def read_captions(path: Path, images: Path | None, question: str = CAPTION_QUESTION) -> Iterator[Question]:
    """Yield one question for each image of COCO's captions, all of whose captions are accepted.

    Args:
        path: {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "..."}]}
        images: directory of the images.
        question: the question.

    Raises:
        QuestionFileError: the file has another format, an image is missing, or it has no captions.
    """
    content = read_json(path)
    captions: dict[str, list[str]] = {}
    for record in records_of(path, content, "annotations"):
        captions.setdefault(record.text("image_id"), []).append(record.text("caption"))
    for record in records_of(path, content, "images"):
        key = record.text("id")
        if key not in captions:
            raise record.error(f'there is no caption of image {key} in "annotations".')
        image = find_image(record, record.text("file_name"), images)
        yield Question(key, image, question, tuple(captions[key]), group=image.name)
