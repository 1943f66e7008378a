"""The verdict on an answer, and the count of the things that a description names."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tiny.asking.facts import Example, Facts
from tiny.grading.clauses import Verdict, pair_places, read_verdict, split_clauses
from tiny.grading.comparisons import agrees_beside, agrees_larger, agrees_whether_larger, names_beside, names_extreme
from tiny.grading.mentions import Mention, find_mentions, is_negative
from tiny.words.sentences import Language, topics_of

Judge = Callable[[Facts, Language, str, list[Mention]], bool]
THING_WORDS = {"zh": r"\s*[个样种件]\s*(?:物体|东西|物品|图形)", "en": r" (?:objects?|things?|items?|shapes?)\b"}
LARGEST = {"zh": "最大", "en": r"\b(?:largest|biggest)\b"}


@dataclass(frozen=True)
class ThingScore:
    """How many things of a picture an answer names by kind and colour.

    Attributes:
        right: those that are there.   wrong: those that are not.   missing: those that it leaves out.
    """

    right: int
    wrong: int
    missing: int


def is_right(example: Example, answer: str) -> bool:
    """Whether `answer` says what the facts of `example` demand and nothing that contradicts them."""
    facts, language, text = example.facts, example.language, answer.lower().strip()
    if facts.aspect == "topic":
        return re.search(topics_of(language)[str(facts.value)].pattern, text) is not None
    said = list(find_mentions(language, text))
    known = {facts.kind, *(kind for _, kind, _ in facts.things), *(facts.other or ())[:1]} - {None}
    if {mention.kind for mention in said} - known - {None}:
        return False  # speaks of something that is not there and that nobody asked for
    judges: dict[str, Judge] = {
        "things": _names_all,
        "colour": _colour_right,
        "where": _place_right,
        "count": _count_right,
        "exists": _existence_right,
        "larger": agrees_larger,
        "is_larger": agrees_whether_larger,
        "extreme": names_extreme,
        "relation": names_beside,
        "is_beside": agrees_beside,
    }
    return judges[facts.aspect](facts, language, text, said)


def score_things(example: Example, answer: str) -> ThingScore:
    """Count the things that `answer` names rightly, wrongly and not at all; for "describe" and "objects"."""
    expected = {(colour, kind) for colour, kind, _ in example.facts.things}
    named = _name_pairs(find_mentions(example.language, answer.lower()))
    wrong = {
        (colour, kind)
        for colour, kind in named - expected
        if colour is not None or kind not in {kind for _, kind in expected}
    }
    right = len(named & expected)
    return ThingScore(right, len(wrong), len(expected) - right)


def _name_pairs(said: Iterator[Mention]) -> set[tuple[str | None, str]]:
    """Each (colour, kind) that is named; a kind without its colour only if it never has one."""
    pairs = {(mention.colour, mention.kind) for mention in said if mention.kind}
    coloured = {kind for colour, kind in pairs if colour}
    return {(colour, kind) for colour, kind in pairs if colour or kind not in coloured}


def _names_all(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Every thing with its colour, none listed twice, no other thing and nothing untrue about them."""
    if not facts.things:
        return is_negative(language, text) and not any(mention.kind for mention in said)
    if is_negative(language, text) or _name_pairs(iter(said)) != {thing[:2] for thing in facts.things}:
        return False
    if facts.region is not None and {mention.region for mention in said} - {None, facts.region}:
        return False
    checks = (_lists_once, _places_match, _sizes_match, _number_matches, _largest_matches)
    return all(check(facts, language, text) for check in checks)


def _lists_once(facts: Facts, language: Language, text: str) -> bool:
    """No thing twice in one breath, nor twice with an article, nor more than one of what is one."""
    for part in re.split("[。，；,;]" if language == "zh" else "[.;]", text):
        pairs = [(mention.colour, mention.kind) for mention in find_mentions(language, part) if mention.kind]
        if len(pairs) != len(set(pairs)):
            return False
    said = list(find_mentions(language, text))
    listed = [mention for mention in said if mention.kind and mention.listed]
    many = any(
        (first.number or 0) > 1 and second.kind and second.colour and second.start - first.end <= 1
        for first, second in itertools.pairwise(said)
    )
    return len(listed) == len(set(listed)) and not many


def _places_match(facts: Facts, language: Language, text: str) -> bool:
    """Whether each place goes with its thing."""
    places = {(colour, kind): place for colour, kind, place in facts.things}
    for (colour, kind), place in pair_places(language, text):
        if place not in {at for pair, at in places.items() if pair[1] == kind and colour in (None, pair[0])}:
            return False
    return True


def _sizes_match(facts: Facts, language: Language, text: str) -> bool:
    """No large thing is called small, nor a small one large."""
    sizes = {thing[:2]: size for thing, size in zip(facts.things, facts.sizes, strict=False)}
    said = ((m.size, sizes.get((m.colour, m.kind))) for m in find_mentions(language, text) if m.colour and m.kind)
    return all(set(pair) != {"small", "large"} for pair in said)


def _number_matches(facts: Facts, language: Language, text: str) -> bool:
    """Where it says how many objects there are, it counts them all."""
    numbers = [m.number for m in find_mentions(language, text) if re.match(THING_WORDS[language], text[m.end :])]
    return set(numbers) <= {None, len(facts.things)}


def _largest_matches(facts: Facts, language: Language, text: str) -> bool:
    """Nothing is called the largest that is not."""
    clauses = [clause for clause in split_clauses(text) if re.search(LARGEST[language], clause)]
    named = [m for clause in clauses for m in find_mentions(language, clause) if m.kind]
    largest = set(facts.largest) | {(None, kind) for _, kind in facts.largest}
    return not largest or all((mention.colour, mention.kind) in largest for mention in named)


def _colour_right(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    if {mention.region for mention in said} - {None, *(place for _, _, place in facts.things)}:
        return False
    if facts.claim is not None:
        return _claim_right(facts, language, read_verdict(language, text), "colour")
    colours = {mention.colour for mention in said} - {None}
    return colours == {facts.value} and not is_negative(language, text)


def _place_right(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    if {mention.colour for mention in said} - {None, *(colour for colour, _, _ in facts.things)}:
        return False
    if facts.claim is not None:
        return _claim_right(facts, language, read_verdict(language, text), "region")
    regions = {mention.region for mention in said} - {None}
    return regions == {facts.value} and not is_negative(language, text)


def _claim_right(facts: Facts, language: Language, verdict: Verdict, field: str) -> bool:
    """Yes or no as it is; what is stated is true, and the truth is not denied."""
    stated, denied = (
        {getattr(mention, field) for clause in clauses for mention in find_mentions(language, clause)} - {None}
        for clauses in (verdict.stated, verdict.denied)
    )
    if verdict.agrees not in (None, facts.claim == facts.value) or facts.value in denied:
        return False
    return stated <= {facts.value} and (bool(stated) or verdict.agrees is not None)


def _count_right(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    if {mention.colour for mention in said} - {None, facts.colour, *(colour for colour, _, _ in facts.things)}:
        return False
    return _count_said(language, text, said) == facts.value


def _count_said(language: Language, text: str, said: list[Mention]) -> int | None:
    """The one number in the answer; None if it gives none, or several."""
    numbers = {mention.number for mention in said} - {None}
    if is_negative(language, text):
        return 0 if numbers <= {0} else None
    if not numbers and language == "en" and re.search(r"\ban?\b", text):
        return 1
    if len(numbers) > 1:  # "two red things: one ball and one car"
        followed = zip(said, [*said[1:], Mention()], strict=True)
        numbers = {mention.number for mention, after in followed if not after.listed} - {None}
    return numbers.pop() if len(numbers) == 1 else None


def _existence_right(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Yes or no as it is, without a contradiction and without a colour that is wrong."""
    colours = {mention.colour for mention in said} - {None}
    if colours - {facts.colour, *(colour for colour, _, _ in facts.things)}:
        return False
    yes = re.match(r"\W*(yes|yeah|there (is|are)\b|i (can )?see\b|有|是|对|能|看到)", text) is not None
    no = is_negative(language, text)
    if facts.value:
        return not no and (yes or "有" in text)
    contradicts = re.match(r"\W*(yes|yeah|有|是的|对)", text) or any(mention.region for mention in said)
    return no and not contradicts
