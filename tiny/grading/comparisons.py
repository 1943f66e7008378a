"""Grades comparisons: which thing is larger, and which thing is on which side of another."""

from collections.abc import Iterator, Sequence

from tiny.grading.mentions import Mention, expression, find_mentions, occurs
from tiny.grading.parsed_answer import ParsedAnswer
from visualglm.scenes.facts import Facts, ThingFact
from visualglm.scenes.relations import OPPOSITES

SIDE_OF_REGION = {"left": "left", "right": "right", "top": "above", "bottom": "below"}


def grade_larger(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the answer names the larger (or smaller) thing of two, or the opposite for its counterpart."""
    return answer.polarity is not False and _all_comparisons_hold(facts, answer)


def grade_is_larger(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the yes or no is correct, and that no false comparison follows it."""
    return answer.answers_yes_no(bool(facts.value), _check_comparisons(facts, answer))


def grade_extreme(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the answer names the largest (or smallest) thing, and no other one as such."""
    return not answer.is_negated and _all_comparisons_hold(facts, answer)


def _all_comparisons_hold(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that all comparisons are true; without any, that the only thing named is the correct one."""
    if claims := _check_comparisons(facts, answer):
        return all(claims)
    named = [mention for mention in answer.mentions_in(answer.affirmed) if mention.kind or mention.color]
    return bool(named) and all(match_things(mention, facts.things) == [0] for mention in named)


def _check_comparisons(facts: Facts, answer: ParsedAnswer) -> list[bool]:
    """Check each comparison in the affirmed clauses.

    A comparison is true if it applies `facts.way` to the correct thing, or the opposite to the other one of a pair.
    """
    expected_way, verdicts = str(facts.way)[:5], []
    for mention, way in (found for clause in answer.affirmed for found in _find_comparisons(answer, clause)):
        matches = match_things(mention, facts.things)
        same_way = way == expected_way
        verdicts.append(len(matches) == 1 and (matches == [0]) == same_way and (same_way or facts.aspect != "extreme"))
    return verdicts


def _find_comparisons(answer: ParsedAnswer, clause: str) -> Iterator[tuple[Mention, str]]:
    """Yield each mention that a clause calls "large" or "small" relative to others."""
    mentions = [mention for mention in find_mentions(answer.language, clause) if mention.kind or mention.color]
    for way in ("large", "small"):
        for match in expression(answer.language, way).finditer(clause):
            if any(mention.start <= match.start() < mention.end for mention in mentions):
                continue  # 小 as the first character of 小汽车 is no size
            pivot = (expression(answer.language, "than").search(clause, 0, match.start()) or match).start()
            before = [mention for mention in mentions if mention.end <= pivot]
            after = [mention for mention in mentions if mention.start > pivot]
            yield from ((mention, way) for mention in (before[-1:] or after[:1]))


def match_things(mention: Mention, things: Sequence[ThingFact]) -> list[int]:
    """Return the indices of the things that a mention may refer to."""
    return [
        number
        for number, (color, kind, _) in enumerate(things)
        if mention.kind in (None, kind) and mention.color in (None, color)
    ]


def grade_relation(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the answer names exactly the things on the side asked about; a color may be omitted if unambiguous."""
    if {_side_of(mention) for mention in answer.mentions} - {None, facts.way}:
        return False
    things = [mention for mention in answer.mentions if mention.kind and not _is_reference(mention, facts)]
    if not facts.things:
        alone = (answer.text[: mention.start] for mention in answer.mentions if mention.kind and not mention.side)
        return answer.is_negated and not things and not any(occurs(answer.language, "denied", text) for text in alone)
    matches = {tuple(match_things(mention, facts.things)) for mention in things}
    is_complete = matches == {(number,) for number in range(len(facts.things))}
    return is_complete and len(things) == len(set(things)) and not answer.is_negated


def _is_reference(mention: Mention, facts: Facts) -> bool:
    """Check whether a mention is the reference thing: the one relative to which sides are defined."""
    assert facts.other is not None
    kind, color = facts.other
    if mention.kind != kind or mention.side is not None:
        return mention.kind == kind
    alone = all(thing[1] != kind for thing in facts.things)
    return not mention.listed and (mention.color == color or (alone and None in (mention.color, color)))


def grade_is_beside(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the yes or no is correct, and that no false side follows it."""
    true = str(facts.way) if facts.value else OPPOSITES[str(facts.way)]
    claims = []
    for mention in answer.mentions_in(answer.affirmed):
        if side := _side_of(mention):
            is_inverse = mention.kind is not None and match_things(mention, facts.things) == [0]
            # A side of the second thing relative to the first claims the opposite side of the first thing.
            claims.append((OPPOSITES.get(side) if is_inverse else side) == true)
    return answer.answers_yes_no(bool(facts.value), claims)


def _side_of(mention: Mention) -> str | None:
    return mention.side or (mention.region and SIDE_OF_REGION.get(mention.region, "elsewhere"))
