"""Questions and results that the tests of the evaluation share."""

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
    """Gives its answers in order, in pieces, and keeps what it was asked.

    Args:
        answers: what it says.
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
    """One thing named rightly for each "right" in an answer, one wrongly for each "wrong"; one left out."""
    return ThingScore(answer.count("right"), answer.count("wrong"), 1)


def make_question(
    kind: str = "colour",
    language: Language = "en",
    text: str = "What is right?",
    image: str | None = "red",
    swapped_image: str | None = "blue",
    **fields: Any,
) -> Question:
    """A question whose right answer is "right", about a picture of one color."""

    def paint(color: str | None) -> ImageSource | None:
        return None if color is None else ImageSource(color, partial(Image.new, "RGB", (300, 150), color))

    expected = fields.pop("expected", ("right",))
    history = fields.pop("history", ())
    return Question(
        kind, language, history, text, expected, "right".__eq__, paint(image), paint(swapped_image), **fields
    )


def make_results(right: int, wrong: int, swapped_right: int | None = 0, **fields: Any) -> list[Result]:
    """`right` + `wrong` results of one kind and language, of which `swapped_right` stay right when swapped."""
    question = make_question(**fields)
    answers = ["right"] * right + ["wrong"] * wrong
    if swapped_right is None:
        return [Result(question, answer) for answer in answers]
    swapped = ["right"] * swapped_right + ["wrong"] * (right + wrong - swapped_right)
    return [Result(question, *pair) for pair in zip(answers, swapped, strict=True)]
