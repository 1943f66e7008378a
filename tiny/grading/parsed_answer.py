"""Parses an answer: its mentions, its affirmed and negated clauses, and the regions it assigns to things."""

import re
from collections.abc import Iterator, Sequence

from tiny.grading.mentions import Mention, expression, find_mentions, is_negative
from tiny.words.sentences import Language

ThingName = tuple[str | None, str]  # color and kind


class ParsedAnswer:
    """A parsed answer.

    Attributes:
        language: "zh" or "en".
        text: the answer in lower case.
        mentions: its mentions, in order.
        is_negated: whether it contains a negation.
        polarity: True for an explicit yes, False for a no or a negated clause, None if it says neither.
        affirmed, negated: the clauses after a leading yes or no, without and with a negation.
    """

    def __init__(self, language: Language, text: str) -> None:
        self.language = language
        self.text = text.lower().strip()
        self.mentions = list(find_mentions(language, self.text))
        self.is_negated = is_negative(language, self.text)
        yes, no = (expression(language, key).match(self.text) for key in ("yes", "no"))
        start = yes or no
        clauses = split_clauses(self.text[start.end() :] if start else self.text)
        self.negated = [clause for clause in clauses if is_negative(language, clause)]
        self.affirmed = [clause for clause in clauses if clause not in self.negated]
        self.polarity = True if yes else False if no or self.negated else None

    def answers_yes_no(self, truth: bool, claims: Sequence[bool]) -> bool:
        """Check that the polarity is `truth` or open, that all claims hold, and that there is either."""
        return self.polarity in (None, truth) and all(claims) and (bool(claims) or self.polarity is not None)

    def mentions_in(self, clauses: Sequence[str]) -> list[Mention]:
        """Return the mentions in some of its clauses."""
        return [mention for clause in clauses for mention in find_mentions(self.language, clause)]

    def list_locations(self) -> Iterator[tuple[ThingName, str]]:
        """Yield each thing with its stated region: "the ball is on the left", "on the left is a ball"."""
        waiting: str | None = None  # a region whose thing follows: "On the left, there is a ball."
        last: ThingName | None = None  # a thing whose region follows: "There is a ball, it is on the left."
        for clause in split_clauses(self.text):
            mentions = [m for m in find_mentions(self.language, clause) if (m.kind or m.region) and m.side is None]
            things, regions = list_names(mentions), [mention.region for mention in mentions if mention.region]
            if things:
                yield from _pair_clause(mentions, waiting)
                waiting, last = None, None if regions else things[-1]
            elif regions and last:
                yield from ((last, region) for region in regions)
                last = None
            elif regions:
                waiting = regions[-1]


def _pair_clause(mentions: list[Mention], waiting: str | None) -> Iterator[tuple[ThingName, str]]:
    """Yield the thing and region pairs of one clause; `waiting` is a region from the clause before."""
    region_first, region, group = bool(mentions[0].region or waiting), waiting, list[ThingName]()
    for mention in mentions:
        if mention.region and region_first:
            region = mention.region
        elif mention.region:
            yield from ((pair, mention.region) for pair in group)
            group = []
        elif region is not None:
            yield (mention.color, str(mention.kind)), region
        else:
            group += list_names([mention])


def list_names(mentions: Sequence[Mention]) -> list[ThingName]:
    """Return the color and kind of each thing that is mentioned."""
    return [(mention.color, mention.kind) for mention in mentions if mention.kind]


def split_clauses(text: str) -> list[str]:
    """Split a text at commas and sentence ends, without empty clauses."""
    return [clause for clause in re.split(r"[。，；！？,.;!?\n]", text) if clause.strip()]
