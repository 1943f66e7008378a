"""The clauses of an answer: which ones affirm and which deny, and which places they give to things."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tiny.grading.mentions import Mention, find_mentions, is_negative
from tiny.words.sentences import Language

Pair = tuple[str | None, str]  # colour and kind
YES = {
    "zh": r"(?:是的|对的|没错|嗯|(?:是|对|有|在)(?=[，。,.!！、\s]|$))",
    "en": r"(?:yes|yeah|yep|correct|indeed|sure)\b",
}
NO = {
    "zh": r"(?:不是的?|不对|不|否|没有|没)(?=[，。,.!！、\s]|$)",
    "en": r"(?:no|nope)(?=\W*$|[,.!;:]| (?:it|the|they|that)\b)",
}


@dataclass(frozen=True)
class Verdict:
    """An answer to a yes-or-no question.

    Attributes:
        agrees: whether it says yes; None if it says neither.
        stated, denied: the clauses after the yes or no that affirm and that deny something.
    """

    agrees: bool | None
    stated: tuple[str, ...]
    denied: tuple[str, ...]


def split_clauses(text: str) -> list[str]:
    """The text at its commas and full stops, without empty parts."""
    return [clause for clause in re.split(r"[。，；！？,.;!?\n]", text) if clause.strip()]


def read_verdict(language: Language, text: str) -> Verdict:
    """Take a lower-case answer apart; a denial without yes or no is a no."""
    yes, no = (re.match(rf"\W*{pattern[language]}", text) for pattern in (YES, NO))
    start = yes or no
    clauses = split_clauses(text[start.end() :] if start else text)
    stated = tuple(clause for clause in clauses if not is_negative(language, clause))
    denied = tuple(clause for clause in clauses if is_negative(language, clause))
    agrees = True if yes else False if no or denied else None
    return Verdict(agrees, stated, denied)


def pair_places(language: Language, text: str) -> Iterator[tuple[Pair, str]]:
    """Each thing with the place that a text gives it: "the ball is on the left", "on the left is a ball"."""
    waiting: str | None = None  # a place that waits for its thing: "On the left, there is a ball."
    last: Pair | None = None  # a thing that waits for its place: "There is a ball, it is on the left."
    for clause in split_clauses(text):
        said = [mention for mention in find_mentions(language, clause) if mention.kind or mention.region]
        said = [mention for mention in said if mention.side is None]
        if not any(mention.kind for mention in said):
            for mention in said:
                if last is not None:
                    yield last, str(mention.region)
                else:
                    waiting = mention.region
            last = None if said else last
            continue
        yield from _pair_clause(said, waiting)
        waiting = None
        last = None if any(mention.region for mention in said) else _to_pair(next(m for m in said[::-1] if m.kind))


def _pair_clause(said: list[Mention], waiting: str | None) -> Iterator[tuple[Pair, str]]:
    """The pairs of one clause; `waiting` is the place that stood alone before it."""
    place_first, place, group = bool(said[0].region or waiting), waiting, list[Pair]()
    for mention in said:
        if mention.region and place_first:
            place = mention.region
        elif mention.region:
            yield from ((pair, mention.region) for pair in group)
            group = []
        elif place is not None:
            yield _to_pair(mention), place
        else:
            group.append(_to_pair(mention))


def _to_pair(mention: Mention) -> Pair:
    return mention.colour, str(mention.kind)
