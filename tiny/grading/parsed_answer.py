"""An answer taken apart: what it names, affirms and denies, and which places it gives to things."""

import re
from collections.abc import Iterator, Sequence

from tiny.grading.mentions import Mention, expression, find_mentions, is_negative
from tiny.words.sentences import Language

ThingName = tuple[str | None, str]  # color and kind


class ParsedAnswer:
    """An answer taken apart.

    Attributes:
        language: "zh" or "en".
        text: in lower case.
        said: what it names.
        denies: whether it denies anything.
        agrees: whether it says yes, by a word or else by denying nothing; None if it says neither.
        stated, denied: the clauses after a yes or no that affirm and that deny something.
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
        """Whether it says yes or no as it is, makes claims that are all true, and says anything at all."""
        return self.polarity in (None, truth) and all(claims) and (bool(claims) or self.polarity is not None)

    def mentions_in(self, clauses: Sequence[str]) -> list[Mention]:
        """Return what some of its clauses name."""
        return [mention for clause in clauses for mention in find_mentions(self.language, clause)]

    def list_locations(self) -> Iterator[tuple[ThingName, str]]:
        """Yield each thing with the place given to it: "the ball is on the left", "on the left is a ball"."""
        waiting: str | None = None  # a place that waits for its thing: "On the left, there is a ball."
        last: ThingName | None = None  # a thing that waits for its place: "There is a ball, it is on the left."
        for clause in split_clauses(self.text):
            said = [m for m in find_mentions(self.language, clause) if (m.kind or m.region) and m.side is None]
            things, places = list_names(said), [mention.region for mention in said if mention.region]
            if things:
                yield from _pair_clause(said, waiting)
                waiting, last = None, None if places else things[-1]
            elif places and last:
                yield from ((last, place) for place in places)
                last = None
            elif places:
                waiting = places[-1]


def _pair_clause(said: list[Mention], waiting: str | None) -> Iterator[tuple[ThingName, str]]:
    """Yield the pairs of one clause; `waiting` is the place that stood alone before it."""
    place_first, place, group = bool(said[0].region or waiting), waiting, list[ThingName]()
    for mention in said:
        if mention.region and place_first:
            place = mention.region
        elif mention.region:
            yield from ((pair, mention.region) for pair in group)
            group = []
        elif place is not None:
            yield (mention.color, str(mention.kind)), place
        else:
            group += list_names([mention])


def list_names(said: Sequence[Mention]) -> list[ThingName]:
    """Return the color and kind of every thing that is named."""
    return [(mention.color, mention.kind) for mention in said if mention.kind]


def split_clauses(text: str) -> list[str]:
    """Return the text parted at commas and full stops, without empty parts."""
    return [clause for clause in re.split(r"[。，；！？,.;!?\n]", text) if clause.strip()]
