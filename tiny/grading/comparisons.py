"""Whether an answer compares things rightly: what is larger, and what is beside what."""

import re
from collections.abc import Iterator, Sequence

from tiny.asking.facts import Facts, ThingFact
from tiny.asking.relations import OPPOSITES
from tiny.grading.clauses import read_verdict, split_clauses
from tiny.grading.mentions import Mention, find_mentions, is_negative
from tiny.words.sentences import Language

WAYS = {
    "zh": {"large": "(?<!样)大", "small": "(?<!样)小"},
    "en": {"large": r"\b(?:larger|bigger|largest|biggest|greater|greatest)\b", "small": r"\b(?:smaller|smallest)\b"},
}
DENIED = {"zh": r"(?:没有?|无)$", "en": r"\b(?:no|any|an?) $"}  # before what is said not to be there
SIDE_OF_REGION = {"left": "left", "right": "right", "top": "above", "bottom": "below"}


def agrees_larger(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Which of two: the right one is named, or the other one as the opposite."""
    verdict = read_verdict(language, text)
    return verdict.agrees is not False and _compares_rightly(facts, language, verdict.stated)


def agrees_whether_larger(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Yes or no as it is, and no untrue comparison after it."""
    verdict = read_verdict(language, text)
    if verdict.agrees is not None and verdict.agrees is not facts.value:
        return False
    claims = [claim for clause in verdict.stated for claim in find_comparisons(language, clause)]
    return all(_is_true(facts, *claim) for claim in claims) and (bool(claims) or verdict.agrees is not None)


def names_extreme(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """The largest or smallest of all is named, and nothing else as such."""
    return not is_negative(language, text) and _compares_rightly(facts, language, split_clauses(text))


def _compares_rightly(facts: Facts, language: Language, clauses: Sequence[str]) -> bool:
    """All comparisons are true; without any, the one thing named is the one asked for."""
    claims = [claim for clause in clauses for claim in find_comparisons(language, clause)]
    if claims:
        return all(_is_true(facts, *claim) for claim in claims)
    named = [m for clause in clauses for m in find_mentions(language, clause) if m.kind or m.colour]
    return bool(named) and all(match_things(mention, facts.things) == [0] for mention in named)


def find_comparisons(language: Language, clause: str) -> Iterator[tuple[Mention, str]]:
    """What a lower-case clause calls "large" or "small" among others."""
    said = [mention for mention in find_mentions(language, clause) if mention.kind or mention.colour]
    for way, pattern in WAYS[language].items():
        for match in re.finditer(pattern, clause):
            if any(mention.start <= match.start() < mention.end for mention in said):
                continue  # the first sign of 小汽车
            pivot = clause.find("比", 0, match.start()) if language == "zh" else -1
            pivot = match.start() if pivot < 0 else pivot
            before = [mention for mention in said if mention.end <= pivot]
            after = [mention for mention in said if mention.start > pivot]
            if before or after:
                yield (before[-1] if before else after[0]), way


def match_things(mention: Mention, things: Sequence[ThingFact]) -> list[int]:
    """Which of the things a mention may mean."""
    return [
        number
        for number, (colour, kind, _) in enumerate(things)
        if mention.kind in (None, kind) and mention.colour in (None, colour)
    ]


def _is_true(facts: Facts, mention: Mention, way: str) -> bool:
    """Whether the thing that is `facts.way` is called so, or the other one of a pair the opposite."""
    asked = "large" if str(facts.way).startswith("larg") else "small"
    meant = match_things(mention, facts.things)
    if len(meant) != 1:
        return False
    return (meant == [0]) == (way == asked) and (way == asked or facts.aspect != "extreme")


def names_beside(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Exactly the things on that side are named; their colours may be left out where that leaves no doubt."""
    if {_side_of(mention) for mention in said} - {None, facts.way}:
        return False
    things = [mention for mention in said if mention.kind and not _is_reference(mention, facts)]
    if not facts.things:
        absent = any(m.kind and not m.side and re.search(DENIED[language], text[: m.start]) for m in said)
        return is_negative(language, text) and not things and not absent
    if is_negative(language, text) or len(things) != len(set(things)):
        return False
    meant = [match_things(mention, facts.things) for mention in things]
    return all(len(one) == 1 for one in meant) and {one[0] for one in meant} == set(range(len(facts.things)))


def _is_reference(mention: Mention, facts: Facts) -> bool:
    """Whether this is the thing beside which the others are."""
    assert facts.other is not None
    kind, colour = facts.other
    if mention.side is not None:
        return mention.kind == kind
    others = [thing for thing in facts.things if thing[1] == kind]
    if mention.kind != kind or mention.listed:
        return False
    return mention.colour == colour or (not others and mention.colour is None) or (colour is None and not others)


def agrees_beside(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Yes or no as it is, and no untrue side after it."""
    verdict = read_verdict(language, text)
    if verdict.agrees is not None and verdict.agrees is not facts.value:
        return False
    true = str(facts.way) if facts.value else OPPOSITES[str(facts.way)]
    sides = [side for clause in verdict.stated for side in _find_sides(facts, language, clause)]
    return all(side == true for side in sides) and (bool(sides) or verdict.agrees is not None)


def _find_sides(facts: Facts, language: Language, clause: str) -> Iterator[str]:
    """The sides on which a clause puts the thing asked about; turned round where it speaks of the other thing."""
    for mention in find_mentions(language, clause):
        side = _side_of(mention)
        if side is not None:
            turned = mention.kind is not None and match_things(mention, facts.things) == [0]
            yield OPPOSITES[side] if turned else side


def _side_of(mention: Mention) -> str | None:
    return mention.side or SIDE_OF_REGION.get(str(mention.region), None if mention.region is None else "elsewhere")
