"""Finds mentions in a text: kinds, colors, regions, numbers, sizes and sides."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tiny.words.sentences import Language, read_sentences
from visualglm.scenes.vocabulary import NOUNS, Noun, make_plural

FIELDS = {"colour": "color"}  # named group of the mention scanner -> field of a Mention, if they differ
GROUPS = ("colour", "region", "number", "size", "side")  # named groups of the mention scanner besides "kind"


@dataclass(frozen=True)
class Mention:
    """A mention of a thing or attribute in a text; fields that it does not specify are None.

    Attributes:
        kind, color, region, number: the named values; a color right before a kind belongs to it.
        size: "small" or "large", of this kind.
        side: which side of this kind, as in 球的左边 | to the left of the ball.
        listed: whether an article introduces the kind as a further item: 一个球 | a ball.
        start, end: character span in the text.
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
    """Return a compiled regular expression of tiny/sentences/*/grading.toml."""
    return re.compile(read_sentences(f"{language}/grading")[key])


def occurs(language: Language, key: str, text: str) -> bool:
    """Check whether the expression `key` matches anywhere in a lower-case text."""
    return expression(language, key).search(text) is not None


def is_negative(language: Language, text: str) -> bool:
    """Check whether a lower-case text contains a negation."""
    return occurs(language, "negative", text)


def find_mentions(language: Language, text: str) -> Iterator[Mention]:
    """Yield the mentions in a lower-case text, in order."""
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
    """Return a lower-case text with its mentions replaced by spaces."""
    return _scanner(language).sub(" ", text)


def values(mentions: Iterable[Mention], name: str) -> set[Any]:
    """Return the values of one field over the mentions, without None."""
    return {getattr(mention, name) for mention in mentions} - {None}


@cache
def _scanner(language: Language) -> re.Pattern[str]:
    """Return one regular expression that matches every mention."""
    either = {group: "|".join(patterns.values()) for group, patterns in _meanings(language).items()}
    either["kind"] = "|".join(sorted(either["kind"].split("|"), key=len, reverse=True))  # 小汽车 before 车
    return re.compile("".join(read_sentences(f"{language}/grading")["scanner"]).format_map(either))


@cache
def _meanings(language: Language) -> dict[str, dict[Any, str]]:
    """Return the values of each scanner group with their regular expressions."""
    found: dict[str, dict[Any, str]] = {name: read_sentences(f"{language}/grading")[name] for name in GROUPS}
    found["number"] = {int(n): rf"{word}|(?<!\d){n}(?!\d)" for n, word in found["number"].items()}
    return {**found, "kind": {kind: "|".join(_names(language, noun)) for kind, noun in NOUNS.items()}}


def _names(language: Language, noun: Noun) -> list[str]:
    if language == "zh":
        return [noun.zh, *noun.zh_others]
    return [noun.en, noun.plural, f"{noun.plural}es", *noun.en_others, *map(make_plural, noun.en_others)]
