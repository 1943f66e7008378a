"""The words of meaning in a text: kinds, colors, regions, numbers, sizes and sides."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tiny.words.sentences import Language, read_sentences
from tiny.words.vocabulary import NOUNS, Noun, make_plural

FIELDS = {"colour": "color"}  # group of the scanner -> field of a Mention, where they differ
GROUPS = ("colour", "region", "number", "size", "side")  # of the scanner, beside the kinds


@dataclass(frozen=True)
class Mention:
    """A word of meaning in a text; every field that it does not speak of is None.

    Attributes:
        kind, color, region, number: what it names; a color right before a kind belongs to it.
        size: "small" or "large", of this kind.
        side: of which side of this kind it speaks, as in 球的左边 | to the left of the ball.
        listed: whether the kind is brought up as one more: 一个球 | a ball.
        start, end: where it stands in the text.
    """

    kind: str | None = None
    color: str | None = None
    region: str | None = None
    number: int | None = None
    size: str | None = field(default=None, compare=False)
    side: str | None = field(default=None, compare=False)
    listed: bool = field(default=False, compare=False)
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


@cache
def expression(language: Language, key: str) -> re.Pattern[str]:
    """Return a regular expression of tiny/sentences/*/grading.toml."""
    return re.compile(read_sentences(f"{language}/grading")[key])


def occurs(language: Language, key: str, text: str) -> bool:
    """Whether that expression matches anywhere in a lower-case text."""
    return expression(language, key).search(text) is not None


def is_negative(language: Language, text: str) -> bool:
    """Whether a lower-case text denies something."""
    return occurs(language, "negative", text)


def find_mentions(language: Language, text: str) -> Iterator[Mention]:
    """Yield what a lower-case text speaks of, in order."""
    meanings = _meanings(language)
    for match in _scanner(language).finditer(text):
        words = {group.rstrip("_"): word for group, word in match.groupdict().items() if word}
        found: dict[str, Any] = {
            FIELDS.get(group, group): next(
                meaning for meaning, pattern in meanings[group].items() if re.fullmatch(pattern, word)
            )
            for group, word in words.items()
        }
        before = text[max(0, match.start() - 4) : match.start()]
        yield Mention(**found, listed=occurs(language, "article", before), start=match.start(), end=match.end())


def strip_mentions(language: Language, text: str) -> str:
    """Return what a lower-case text says beside its mentions."""
    return _scanner(language).sub(" ", text)


def values(mentions: Iterable[Mention], name: str) -> set[Any]:
    """Return what the mentions say of one field."""
    return {getattr(mention, name) for mention in mentions} - {None}


@cache
def _scanner(language: Language) -> re.Pattern[str]:
    """Return one expression for all mentions."""
    either = {group: "|".join(patterns.values()) for group, patterns in _meanings(language).items()}
    either["kind"] = "|".join(sorted(either["kind"].split("|"), key=len, reverse=True))  # 小汽车 before 车
    return re.compile("".join(read_sentences(f"{language}/grading")["scanner"]).format_map(either))


@cache
def _meanings(language: Language) -> dict[str, dict[Any, str]]:
    """Return the meanings of each group of the scanner, with their expressions."""
    found: dict[str, dict[Any, str]] = {name: read_sentences(f"{language}/grading")[name] for name in GROUPS}
    found["number"] = {int(n): rf"{word}|(?<!\d){n}(?!\d)" for n, word in found["number"].items()}
    return {**found, "kind": {kind: "|".join(_names(language, noun)) for kind, noun in NOUNS.items()}}


def _names(language: Language, noun: Noun) -> list[str]:
    if language == "zh":
        return [noun.zh, *noun.zh_others]
    return [noun.en, noun.plural, f"{noun.plural}es", *noun.en_others, *map(make_plural, noun.en_others)]
