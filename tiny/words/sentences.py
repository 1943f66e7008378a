"""Reads the sentence files of tiny/sentences, and expands templates into questions.

A template may contain alternatives, "[Where is|Where's] the {name}?", one of which is sampled. The alternative "@in"
stands for any phrase of the part "in"; an empty alternative for no text. The fields in braces:

    {name}, {other}      红色的球 | red ball, with or without a color; the second thing of a comparison
    {one}, {kinds}       一个红色的球 | a red ball; 球 | balls
    {any}                same as {kinds}
    {measure}            个; {other_measure} is the measure word of {other}
    {colour}, {place}    红色 | red; 左上角 | in the top left corner
    {side}               左边 | to the left of
    {more}, {most}       大 | larger, smaller; Chinese 大 too | largest, smallest
    {it}                 草地 | grass

The order of a file's lists and tables is part of the training data: it determines what a seed samples.
"""

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from visualglm.scenes import sentences
from visualglm.scenes.sentences import LANGUAGES, Language, capitalize

__all__ = ["LANGUAGES", "Language", "capitalize"]  # also imported from here

T = TypeVar("T")
Rng = np.random.Generator
Segment = tuple[tuple[str, ...], ...]  # alternatives, each a choice of phrases

FOLDER = Path(__file__).parents[1] / "sentences"
PROMPT_WORDS = ("问：", "答：", "Q:", "A:", "[Round 0]", "[Round 1]")


@dataclass(frozen=True)
class Topic:
    """A topic of small talk.

    Attributes:
        questions: question templates.
        answer: the only reply.
        pattern: a lower-case regular expression that every acceptable reply matches.
    """

    questions: Sequence[str]
    answer: str
    pattern: str


def read_sentences(name: str) -> dict[str, Any]:
    """Read a file of tiny/sentences, such as "world" or "zh/questions"."""
    return sentences.read_sentences(name, FOLDER)


@cache
def templates_of(language: Language) -> dict[str, Sequence[str]]:
    """Return the templates of all questions about an image, by topic."""
    files = ("questions", "comparisons", "follow_ups")
    found = {topic: of for name in files for topic, of in read_sentences(f"{language}/{name}")["questions"].items()}
    return {topic: found[of] if isinstance(of, str) else of for topic, of in found.items()}


@cache
def topics_of(language: Language) -> dict[str, Topic]:
    """Return every topic of small talk by name; both languages have the same names."""
    return {name: Topic(**fields) for name, fields in read_sentences(f"{language}/small_talk").items()}


def everyday_texts() -> Iterator[str]:
    """Yield all letters, digits and punctuation, prompt words, and common sentences in both languages."""
    yield from (" ".join(letters) for letters in (string.ascii_lowercase, string.ascii_uppercase, string.digits))
    yield from (string.ascii_letters, string.digits, " ".join(string.punctuation))
    yield from PROMPT_WORDS
    for language in LANGUAGES:
        yield from read_sentences(f"{language}/everyday")["sentences"]


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Sample one of the options."""
    return options[int(rng.random() * len(options))]


def expand(rng: Rng, language: Language, template: str, fields: dict[str, str] | None = None) -> str:
    """Sample one of the texts of a template; English starts with a capital letter."""
    text = "".join(pick(rng, pick(rng, segment)) for segment in _parse(language, template))
    if fields is not None and "{" in text:
        text = text.format_map(fields)
    return capitalize(text) if language == "en" else text


@cache
def _parse(language: Language, template: str) -> tuple[Segment, ...]:
    """Return the segments of a template in order; plain text is a segment with one alternative.

    Raises:
        KeyError: the template names an unknown part.
    """
    segments: list[Segment] = []
    parts = read_sentences(f"{language}/questions")["parts"]
    for number, text in enumerate(re.split(r"\[([^\[\]]*)\]", template)):
        if number % 2:
            options = text.split("|")
            segments.append(tuple(tuple(parts[o[1:]]) if o.startswith("@") else (o,) for o in options))
        elif text:
            segments.append(((text,),))
    return tuple(segments)
