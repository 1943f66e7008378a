"""Generate rehearsal data: questions about the training images, answered by the base model before the training.

The questions are drawn from templates. Most ask about things that the base model's description of the image mentions.
"""

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import torch

from model import CHINESE, ENGLISH, Language, SatChatModel, Turn, VisualGLMError
from model.answers import answer_all, greedy_config
from model.prompt import Tokenizer
from model.visualglm import VisualGLMModel

from .data import ChatDataset
from .evaluation import Question
from .forward import Adapter

NAMED_FRACTION = 0.7  # fraction of the things in questions that are drawn from the description


@dataclass(frozen=True)
class QuestionTemplates:
    """Templates of questions in a language, and the words to insert.

    Attributes:
        language: the language.
        colored: template of a thing with its color.
        things: names of things. {thing} and {other} stand for one of them, with or without a color; {one} is {thing}
            with its article, {many} its plural.
        plurals: the plurals of the things.
        colors, places, sides: words for {color}, {place} and {side}.
        templates: templates of questions about an image, a tuple for each kind.
        follow_ups: templates of questions that refer to the turn before.
        no_image: templates of questions without an image.
    """

    language: Language
    colored: str
    things: tuple[str, ...]
    plurals: tuple[str, ...]
    colors: tuple[str, ...]
    places: tuple[str, ...]
    sides: tuple[str, ...]
    templates: tuple[tuple[str, ...], ...]
    follow_ups: tuple[str, ...]
    no_image: tuple[str, ...]


def split(text: str) -> tuple[str, ...]:
    """Return the words of a text as a tuple."""
    return tuple(text.split())


def read_templates(language: Language) -> QuestionTemplates:
    """Return the templates of a language, from rehearsal.toml."""
    file = Path(__file__).with_suffix(".toml")
    entries: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))[language.code]
    words = {name: split(text) for name, text in entries.pop("words").items()}
    texts = {name: to_tuples(value) for name, value in entries.items()}
    return QuestionTemplates(language=language, **{"plurals": words["things"], **words, **texts})


def to_tuples(value: Any) -> Any:
    """Convert a list and the lists in it to tuples; return anything else unchanged."""
    return tuple(map(to_tuples, value)) if isinstance(value, list) else value


ZH, EN = read_templates(CHINESE), read_templates(ENGLISH)
ZH_THINGS = ZH.things
TEMPLATES = {templates.language: templates for templates in (ZH, EN)}


def draw_question(random: Random, language: Language, description: str) -> str:
    """Return a random question about an image; all kinds have the same probability.

    Args:
        random: random number generator.
        language: language of the question.
        description: an answer about the image, in the same language.
    """
    templates = TEMPLATES[language]
    return fill(random, templates, random.choice(random.choice(templates.templates)), description)


def draw_follow_up(random: Random, language: Language, description: str) -> str:
    """Return a random question that refers to the turn before."""
    templates = TEMPLATES[language]
    return fill(random, templates, random.choice(templates.follow_ups), description)


def draw_no_image(random: Random, language: Language) -> str:
    """Return a random question without an image."""
    templates = TEMPLATES[language]
    return fill(random, templates, random.choice(templates.no_image), "")


def fill(random: Random, templates: QuestionTemplates, template: str, description: str) -> str:
    """Fill a template with random words."""
    thing, other = draw_things(random, templates, description)
    color, place, side = (random.choice(some) for some in (templates.colors, templates.places, templates.sides))
    drawn = {"thing": thing, "other": other, "one": with_article(thing), "many": plural_of(templates, thing)}
    return template.format(**drawn, color=color, place=place, side=side)


def draw_things(random: Random, templates: QuestionTemplates, description: str) -> Sequence[str]:
    """Draw the names of two things, mostly from the description, half of them with a color."""
    colored = [
        templates.colored.format(color=color, thing=thing) for color in templates.colors for thing in templates.things
    ]
    every = [[*templates.things], colored]
    named = [[name for name in names if name in description] for names in every]
    drawn = []
    for _ in range(2):
        names = named if random.random() < NAMED_FRACTION else every
        drawn.append(random.choice(random.choice(names) or random.choice(every)))
    return drawn


def with_article(thing: str) -> str:
    """Add the article to an English name; return a Chinese name unchanged."""
    if not thing.isascii():
        return thing
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def plural_of(templates: QuestionTemplates, thing: str) -> str:
    """Return the plural of a thing, which may have a color."""
    name, plural = next(
        pair for pair in zip(templates.things, templates.plurals, strict=True) if thing.endswith(pair[0])
    )
    return thing.removesuffix(name) + plural


BATCH_SIZE = 16
MAX_NEW_TOKENS = 128
# Maximum fraction of questions that ask for a description; of the remaining ones the fractions of follow-up questions
# and of questions without an image.
DESCRIBED_FRACTION, FOLLOW_UP_FRACTION, NO_IMAGE_FRACTION = 0.25, 0.25, 0.05


@torch.no_grad()
def write_rehearsal_data(
    file: Path, network: VisualGLMModel, tokenizer: Tokenizer, datasets: Sequence[ChatDataset], count: int, seed: int
) -> None:
    """Generate answers of the base model, with the adapter disabled, and write them as training data.

    Args:
        file: the file, JSON lines.
        network: the network.
        tokenizer: its tokenizer.
        datasets: datasets whose images are asked about.
        count: maximum number of answers.
        seed: random seed of the questions.
    """
    images = image_files(datasets, count)
    if not images:
        return
    with Adapter(network).disabled(), file.open("w", encoding="utf-8") as opened:
        for question, answer in generate_examples(SatChatModel(network, tokenizer), images, count, Random(seed)):
            row: dict[str, Any] = {} if question.image is None else {"img": str(question.image.resolve())}
            row |= {"prompt": question.text, "label": answer, "language": question.language.code}
            row["history"] = [[turn.question, turn.answer] for turn in question.history]
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def generate_examples(
    model: SatChatModel, images: Sequence[Path], count: int, random: Random
) -> Iterator[tuple[Question, str]]:
    """Yield up to `count` questions with their answers: first descriptions, then other questions, then follow-ups."""
    pairs = list(product(images, (CHINESE, ENGLISH)))
    random.shuffle(pairs)
    first = pairs[: max(1, round(DESCRIBED_FRACTION * count))]
    described = answer_questions(model, [Question(image, language, language.describe) for image, language in first])
    yield from described
    descriptions = {(question.image, question.language): answer for question, answer in described}
    remaining = count - len(first)
    drawn = [pairs[number % len(pairs)] for number in range(remaining)]
    questions = [make_question(random, *pair, descriptions.get(pair, "")) for pair in drawn]
    follow_ups = round(FOLLOW_UP_FRACTION * remaining)
    answered = answer_questions(model, questions[follow_ups:])
    yield from answered
    yield from answer_questions(
        model, [make_follow_up(random, *random.choice(answered)) for _ in range(follow_ups) if answered]
    )


def make_question(random: Random, image: Path, language: Language, description: str) -> Question:
    """Return a random question about an image with a description, or sometimes one without an image."""
    if random.random() < NO_IMAGE_FRACTION:
        return Question(None, language, draw_no_image(random, language))
    return Question(image, language, draw_question(random, language, description))


def make_follow_up(random: Random, before: Question, answer: str) -> Question:
    """Return a question that follows another one and its answer."""
    choose = draw_question if random.random() < 0.5 and before.image is not None else draw_follow_up
    text = choose(random, before.language, answer)
    return Question(before.image, before.language, text, [*before.history, Turn(before.text, answer)])


def answer_questions(model: SatChatModel, questions: Sequence[Question]) -> list[tuple[Question, str]]:
    """Return the questions with the model's greedy answers; errors and blank answers are left out."""
    config = greedy_config(model, MAX_NEW_TOKENS).replace(repetition_penalty=1.0)
    requests = ((one.conversation(), one.text) for one in questions)
    answers = zip(questions, answer_all(model, requests, config, BATCH_SIZE), strict=True)
    return [(one, text) for one, text in answers if not isinstance(text, VisualGLMError) and text.strip()]


def image_files(datasets: Sequence[ChatDataset], count: int) -> list[Path]:
    """Return up to `count` different image files of the datasets."""
    found: dict[Path, None] = {}
    for dataset in datasets:
        for index in range(len(dataset)):
            image = dataset.encode(index).image
            if image is not None:
                found[image] = None
            if len(found) == count:
                return list(found)
    return list(found)
