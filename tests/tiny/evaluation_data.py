"""Questions and results for the tests of the evaluation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from model import Conversation, Turn, VisualGLMError
from model.description import Description
from model.streaming import CompleteAnswer, Usage
from tiny.evaluation.graded_question import GradedQuestion
from tiny.evaluation.results import Result
from tiny.grading import ThingScore
from tiny.training.encoding import PROMPT_LANGUAGES
from tiny.words.sentences import Language
from visualglm.evaluation.data import ImageReference


class ScriptedModel:
    """Gives prepared answers, in the order of the questions with their own images and then with the swapped ones.

    Args:
        answers: the prepared answers.
    """

    network = torch.nn.Module()
    network.device, network.dtype = torch.device("cpu"), torch.float32
    engine_network = network
    image_size = 224
    description = Description("scripted")
    sampling: Mapping[str, Any] = {}

    image_cache = SimpleNamespace(to_pixels=lambda image: image)

    def __init__(self, answers: Iterable[str]) -> None:
        self.answers = iter(answers)
        self.asked: list[tuple[Any, str, Any]] = []

    def answer_stream(
        self, questions: Iterable[Any], config: Any, max_batch_size: int
    ) -> Iterator[tuple[int, CompleteAnswer | VisualGLMError]]:
        for number, asked in enumerate(questions):
            if isinstance(asked, VisualGLMError):
                yield number, asked
                continue
            conversation, question = asked
            self.asked.append((conversation, question, config))
            yield number, CompleteAnswer(next(self.answers), "stop", Usage(1, 1, 0, 0, 0))


def to_conversation(question: GradedQuestion) -> Conversation:
    """Return the conversation before a question, with its own image."""
    turns = [Turn(earlier, answer) for earlier, answer in question.history]
    image = None if question.image is None else question.image.load()
    return Conversation(image, turns, PROMPT_LANGUAGES[question.language])


@dataclass(frozen=True)
class ColoredImage(ImageReference):
    """An image of one color, which is its name."""

    def source(self) -> Image.Image:
        return Image.new("RGB", (300, 150), self.name)


def count_words(answer: str) -> ThingScore:
    """Score an answer: each "right" is a correct thing, each "wrong" a wrong one; one thing is missing."""
    return ThingScore(answer.count("right"), answer.count("wrong"), 1)


NUMBERS = count(1)  # of the questions, whose keys they are


def make_question(
    kind: str = "colour",
    language: Language = "en",
    text: str = "What is right?",
    image: str | None = "red",
    swapped_image: str | None = "blue",
    **fields: Any,
) -> GradedQuestion:
    """Return a question about a single-color image, with the correct answer "right"."""
    own, other = (None if color is None else ColoredImage(color) for color in (image, swapped_image))
    answers = fields.pop("answers", ("right",))
    return GradedQuestion(
        str(next(NUMBERS)),
        own,
        text,
        answers,
        kind=kind,
        language=language,
        is_correct="right".__eq__,
        swapped_image=other,
        **fields,
    )


def make_results(right: int, wrong: int, swapped_right: int | None = 0, **fields: Any) -> list[Result]:
    """Return `right` + `wrong` results of one kind; `swapped_right` of them are correct when swapped."""
    question = make_question(**fields)
    answers = ["right"] * right + ["wrong"] * wrong
    if swapped_right is None:
        return [Result(question, answer) for answer in answers]
    swapped = ["right"] * swapped_right + ["wrong"] * (right + wrong - swapped_right)
    return [Result(question, *pair) for pair in zip(answers, swapped, strict=True)]
