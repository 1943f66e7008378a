"""What the base model knows already, as questions that it is asked and its answers.

Few examples of one question soon make it the only one that a model answers. Before the training the base is asked
other questions about the same pictures; in the training its answers are the texts along which the model is held to what
the base would say. Known as rehearsal, or self-distillation: https://arxiv.org/abs/2402.13669.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import torch

from model import CHINESE, DEMO, ENGLISH, Conversation, SatChatModel, Turn, VisualGLMError
from model.images.image import load_image
from model.prompt import Language

from .adapter import Adapter
from .data import ChatDataset
from .questions import draw_further, draw_question, draw_talk

ROWS = 16  # answered side by side
LONGEST = 128  # tokens of an answer
# Of the questions those that ask what a picture shows, at most; of the others those that come after another one, and
# those without a picture.
DESCRIBED_SHARE, FURTHER_SHARE, TALK_SHARE = 0.25, 0.25, 0.05


@dataclass(frozen=True)
class Question:
    """A question about a picture, or without one, and what was said before it."""

    image: Path | None
    language: Language
    text: str
    earlier: list[Turn] = field(default_factory=list)


@torch.no_grad()
def write_memory(
    file: Path, network: Any, tokenizer: Any, datasets: Sequence[ChatDataset], count: int, seed: int
) -> None:
    """Ask a model as it is without what was added to it, and write what it answers as training data.

    Args:
        file: JSON lines.
        network: answers.
        datasets: whose pictures are asked about.
        count: answers to write, at most.
        seed: of the questions.
    """
    pictures = picture_files(datasets, count)
    if not pictures:
        return
    with Adapter(network).away(), file.open("w", encoding="utf-8") as opened:
        for question, answer in ask_all(SatChatModel(network, tokenizer), pictures, count, Random(seed)):
            row: dict[str, Any] = {} if question.image is None else {"img": str(question.image.resolve())}
            row |= {"prompt": question.text, "label": answer, "language": question.language.code}
            row["history"] = [[turn.question, turn.answer] for turn in question.earlier]
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def ask_all(
    model: SatChatModel, pictures: Sequence[Path], count: int, random: Random
) -> Iterator[tuple[Question, str]]:
    """Yield up to `count` questions with their answers: what the pictures show, then more of it, then what follows."""
    seen = list(product(pictures, (CHINESE, ENGLISH)))
    random.shuffle(seen)
    first = seen[: max(1, round(DESCRIBED_SHARE * count))]
    described = ask(model, [Question(picture, language, language.describe) for picture, language in first])
    yield from described
    said = {(question.image, question.language): answer for question, answer in described}
    rest = count - len(first)
    places = [seen[number % len(seen)] for number in range(rest)]
    asked = [draw(random, *place, said.get(place, "")) for place in places]
    further = round(FURTHER_SHARE * rest)
    answered = ask(model, asked[further:])
    yield from answered
    yield from ask(model, [follow(random, *random.choice(answered)) for _ in range(further) if answered])


def draw(random: Random, picture: Path, language: Language, said: str) -> Question:
    """Return a question about a picture of which something was said, now and then one without it."""
    if random.random() < TALK_SHARE:
        return Question(None, language, draw_talk(random, language))
    return Question(picture, language, draw_question(random, language, said))


def follow(random: Random, before: Question, answer: str) -> Question:
    """Return a question that comes after another one and its answer."""
    choose = draw_question if random.random() < 0.5 and before.image is not None else draw_further
    text = choose(random, before.language, answer)
    return Question(before.image, before.language, text, [*before.earlier, Turn(before.text, answer)])


def ask(model: SatChatModel, questions: Sequence[Question]) -> list[tuple[Question, str]]:
    """Return the questions that the model answers by the most likely tokens, with its answers."""
    config = DEMO.replace(temperature=0.0, repetition_penalty=1.0, max_new_tokens=LONGEST)
    told = [
        (Conversation(None if one.image is None else load_image(one.image), one.earlier, one.language), one.text)
        for one in questions
    ]
    answers = zip(questions, model.answer_batch(told, config, ROWS), strict=True)
    return [(one, text) for one, text in answers if not isinstance(text, VisualGLMError) and text.strip()]


def picture_files(datasets: Sequence[ChatDataset], count: int) -> list[Path]:
    """Return up to `count` pictures of the data."""
    found: dict[Path, None] = {}
    for dataset in datasets:
        for index in range(len(dataset)):
            image = dataset.encode(index).image
            if image is not None:
                found[image] = None
            if len(found) == count:
                return list(found)
    return list(found)
