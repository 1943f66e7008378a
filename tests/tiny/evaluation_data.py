"""Questions and results for the tests of the evaluation."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image

from model import StreamChunk
from model.description import Description
from tiny.evaluation.results import ImageSource, Question, Result
from tiny.grading import ThingScore
from tiny.words.sentences import Language


class ScriptedModel:
    """Gives prepared answers in order, as a stream of chunks, and records the questions.

    Args:
        answers: the prepared answers.
    """

    network = torch.nn.Module()
    network.device, network.dtype = torch.device("cpu"), torch.float32

    def __init__(self, answers: Iterable[str]) -> None:
        self.answers = iter(answers)
        self.asked: list[tuple[Any, str, Any]] = []

    image_size = 224
    description = Description("scripted")

    def stream_answer(self, conversation: Any, question: str, config: Any) -> Iterator[StreamChunk]:
        self.asked.append((conversation, question, config))
        answer = next(self.answers)
        yield StreamChunk(answer[:1])
        yield StreamChunk(answer[1:], "stop")


def count_words(answer: str) -> ThingScore:
    """Score an answer: each "right" is a correct thing, each "wrong" a wrong one; one thing is missing."""
    return ThingScore(answer.count("right"), answer.count("wrong"), 1)


def make_question(
    kind: str = "colour",
    language: Language = "en",
    text: str = "What is right?",
    image: str | None = "red",
    swapped_image: str | None = "blue",
    **fields: Any,
) -> Question:
    """Return a question about a single-color image, with the correct answer "right"."""

    def paint(color: str | None) -> ImageSource | None:
        return None if color is None else ImageSource(color, partial(Image.new, "RGB", (300, 150), color))

    expected = fields.pop("expected", ("right",))
    history = fields.pop("history", ())
    return Question(
        kind, language, history, text, expected, "right".__eq__, paint(image), paint(swapped_image), **fields
    )


def make_results(right: int, wrong: int, swapped_right: int | None = 0, **fields: Any) -> list[Result]:
    """Return `right` + `wrong` results of one kind; `swapped_right` of them are correct when swapped."""
    question = make_question(**fields)
    answers = ["right"] * right + ["wrong"] * wrong
    if swapped_right is None:
        return [Result(question, answer) for answer in answers]
    swapped = ["right"] * swapped_right + ["wrong"] * (right + wrong - swapped_right)
    return [Result(question, *pair) for pair in zip(answers, swapped, strict=True)]
