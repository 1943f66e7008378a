"""The sentences of tiny/sentences: how their files are read, and how a template becomes a question.

A template may hold alternatives, "[Where is|Where's] the {name}?", one of which is drawn. An alternative
"@in" stands for any phrase of the part "in"; an empty one for nothing. The fields in braces:

    {name}, {other}      红色的球 | red ball, with or without a color; the second thing of a comparison
    {one}, {kinds}       一个红色的球 | a red ball; 球 | balls
    {any}                as {kinds}
    {measure}            个; {other_measure} that of {other}
    {colour}, {place}    红色 | red; 左上角 | in the top left corner
    {side}               左边 | to the left of
    {more}, {most}       大 | larger, smaller; Chinese 大 too | largest, smallest
    {it}                 草地 | grass

The order of a file's lists and tables is part of the training data: it decides what a seed draws.
"""

import re
import string
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

T = TypeVar("T")
Language = Literal["zh", "en"]
Rng = np.random.Generator
Segment = tuple[tuple[str, ...], ...]  # alternatives, each of them one of several phrases

FOLDER = Path(__file__).parents[1] / "sentences"
LANGUAGES: tuple[Language, ...] = get_args(Language)
PROMPT_WORDS = ("问：", "答：", "Q:", "A:", "[Round 0]", "[Round 1]")


@dataclass(frozen=True)
class Topic:
    """A topic of small talk.

    Attributes:
        questions: templates.
        answer: the one reply.
        pattern: a regular expression, lower case, that every acceptable reply contains.
    """

    questions: Sequence[str]
    answer: str
    pattern: str


@cache
def read_sentences(name: str) -> dict[str, Any]:
    """Read a file of tiny/sentences, such as "names" or "zh/questions"."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def templates_of(language: Language) -> dict[str, Sequence[str]]:
    """Return the templates of all questions about a picture, by topic."""
    files = ("questions", "comparisons", "follow_ups")
    found = {topic: of for name in files for topic, of in read_sentences(f"{language}/{name}")["questions"].items()}
    return {topic: found[of] if isinstance(of, str) else of for topic, of in found.items()}


@cache
def topics_of(language: Language) -> dict[str, Topic]:
    """Return every topic of small talk by its name; the names are the same in both languages."""
    return {name: Topic(**fields) for name, fields in read_sentences(f"{language}/small_talk").items()}


def everyday_texts() -> Iterator[str]:
    """Yield every letter, digit and mark, the words of the chat prompt, and common sentences in both languages."""
    yield from (" ".join(letters) for letters in (string.ascii_lowercase, string.ascii_uppercase, string.digits))
    yield from (string.ascii_letters, string.digits, " ".join(string.punctuation))
    yield from PROMPT_WORDS
    for language in LANGUAGES:
        yield from read_sentences(f"{language}/everyday")["sentences"]


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Draw one of the options."""
    return options[int(rng.random() * len(options))]


def expand(rng: Rng, language: Language, template: str, fields: dict[str, str] | None = None) -> str:
    """Draw one of the texts that a template stands for, a capital letter first."""
    text = "".join(pick(rng, pick(rng, piece)) for piece in _parse(language, template))
    if fields is not None and "{" in text:
        text = text.format_map(fields)
    return capitalize(text) if language == "en" else text


def capitalize(text: str) -> str:
    """Return the text with a capital letter first; Chinese has none."""
    return text[0].upper() + text[1:]


@cache
def _parse(language: Language, template: str) -> tuple[Segment, ...]:
    """Return the pieces of a template in order; plain text is a piece with one alternative.

    Raises:
        KeyError: for a part that is not known.
    """
    pieces: list[Segment] = []
    parts = read_sentences(f"{language}/questions")["parts"]
    for number, text in enumerate(re.split(r"\[([^\[\]]*)\]", template)):
        if number % 2:
            options = text.split("|")
            pieces.append(tuple(tuple(parts[o[1:]]) if o.startswith("@") else (o,) for o in options))
        elif text:
            pieces.append(((text,),))
    return tuple(pieces)
