"""Templates of questions: how they are written, and how one becomes a question.

A template may hold alternatives, "[Where is|Where's] the {name}?", one of which is drawn. An alternative
"@in" stands for any phrase of the part "in"; an empty one for nothing. The fields in braces:

    {name}, {other}      红色的球 | red ball, with or without a colour; the second thing of a comparison
    {one}, {kinds}       一个红色的球 | a red ball; 球 | balls
    {measure}            个; {other_measure} that of {other}
    {colour}, {place}    红色 | red; 左上角 | in the top left corner
    {side}               左边 | to the left of
    {more}, {most}       大 | larger, smaller; Chinese 大 too | largest, smallest
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

from tiny.words.comparison_wordings import EN_COMPARISONS, ZH_COMPARISONS
from tiny.words.en_wordings import EN, EN_PARTS
from tiny.words.follow_up_wordings import EN_FOLLOW_UPS, ZH_FOLLOW_UPS
from tiny.words.vocabulary import Language
from tiny.words.zh_wordings import ZH, ZH_PARTS

T = TypeVar("T")
Rng = np.random.Generator
Piece = tuple[tuple[str, ...], ...]  # alternatives, each of them one of several phrases

TEMPLATES: dict[Language, dict[str, tuple[str, ...]]] = {
    "zh": {**ZH, **ZH_COMPARISONS, **ZH_FOLLOW_UPS},
    "en": {**EN, **EN_COMPARISONS, **EN_FOLLOW_UPS},
}
PARTS: dict[Language, dict[str, tuple[str, ...]]] = {"zh": ZH_PARTS, "en": EN_PARTS}


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Any one of the options."""
    return options[int(rng.random() * len(options))]


def wordings_of(language: Language, topic: str) -> tuple[str, ...]:
    """All templates of one topic."""
    return TEMPLATES[language][topic]


def expand(rng: Rng, language: Language, template: str, fields: dict[str, str] | None = None) -> str:
    """One of the texts that a template stands for, a capital letter first."""
    text = "".join(pick(rng, pick(rng, piece)) for piece in _parse(language, template))
    if fields is not None and "{" in text:
        text = text.format_map(fields)
    return text[0].upper() + text[1:] if language == "en" else text


@cache
def _parse(language: Language, template: str) -> tuple[Piece, ...]:
    """The pieces of a template in order; plain text is a piece with one alternative.

    Raises:
        KeyError: for a part that is not known.
    """
    pieces: list[Piece] = []
    for number, text in enumerate(re.split(r"\[([^\[\]]*)\]", template)):
        if number % 2:
            options = text.split("|")
            pieces.append(tuple(PARTS[language][o[1:]] if o.startswith("@") else (o,) for o in options))
        elif text:
            pieces.append(((text,),))
    return tuple(pieces)
