"""Grades an answer against the facts of its question; counts the things that a description names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tiny.grading.comparisons import grade_extreme, grade_is_beside, grade_is_larger, grade_larger, grade_relation
from tiny.grading.mentions import Mention, expression, find_mentions, occurs, values
from tiny.grading.parsed_answer import ParsedAnswer, ThingName, list_names, split_clauses
from tiny.words.sentences import topics_of
from visualglm.scenes.facts import Example, Facts

# Openings of affirmative answers, in both languages.
THERE_IS = re.compile(r"\W*(yes|yeah|there (is|are)\b|i (can )?see\b|有|是|对|能|看到)")
YES = re.compile(r"\W*(yes|yeah|有|是的|对)")


@dataclass(frozen=True)
class ThingScore:
    """Counts of the things that an answer names by kind and color.

    Attributes:
        right: named and present.   wrong: named but absent.   missing: present but not named.
    """

    right: int
    wrong: int
    missing: int


def is_correct(example: Example, answer: str) -> bool:
    """Check that `answer` states the facts required by `example`, and no contradiction to them."""
    facts, parsed = example.facts, ParsedAnswer(example.language, answer)
    if facts.aspect == "topic":
        return re.search(topics_of(example.language)[str(facts.value)].pattern, parsed.text) is not None
    grade, field = GRADERS[facts.aspect]
    known = {
        "kind": {facts.kind, *(facts.other or ())[:1], *(kind for _, kind, _ in facts.things)},
        "color": {facts.color, *(color for color, _, _ in facts.things)},
        "region": {region for _, _, region in facts.things},
    }
    if any(values(parsed.mentions, name) - known[name] for name in ("kind", field)):
        return False  # mentions something that is neither in the image nor in the question
    return grade(facts, parsed)


def score_things(example: Example, answer: str) -> ThingScore:
    """Count the things that `answer` names correctly, wrongly and not at all; for "describe" and "objects"."""
    expected = {thing[:2] for thing in example.facts.things}
    named = _distinct_names(list(find_mentions(example.language, answer.lower())))
    kinds = {kind for _, kind in expected}
    wrong = [(color, kind) for color, kind in named - expected if color is not None or kind not in kinds]
    right = len(named & expected)
    return ThingScore(right, len(wrong), len(expected) - right)


def _distinct_names(mentions: Sequence[Mention]) -> set[ThingName]:
    """Return each named (color, kind); a kind without a color only if it never occurs with one."""
    pairs = list_names(mentions)
    colored = {kind for color, kind in pairs if color}
    return {(color, kind) for color, kind in pairs if color or kind not in colored}


def _grade_things(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that each thing is named once with its color, no other thing is named, and nothing stated is false."""
    if not facts.things:
        return answer.is_negated and not values(answer.mentions, "kind")
    if answer.is_negated or _distinct_names(answer.mentions) != {thing[:2] for thing in facts.things}:
        return False
    if facts.region is not None and values(answer.mentions, "region") - {facts.region}:
        return False
    checks = (_lists_once, _regions_match, _sizes_match, _number_matches, _largest_matches)
    return all(check(facts, answer) for check in checks)


def _lists_once(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that no thing is listed twice in one phrase, or twice with an article, or with a number above one."""
    phrases = [answer.mentions_in([part]) for part in expression(answer.language, "breath").split(answer.text)]
    listed = [mention for mention in answer.mentions if mention.listed]
    return all(len(names) == len(set(names)) for names in map(list_names, (*phrases, listed))) and not any(
        (first.number or 0) > 1 and second.kind and second.color and second.start - first.end <= 1
        for first, second in pairwise(answer.mentions)
    )


def _regions_match(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that each region is stated for the correct thing."""
    return all(
        any(pair in ((color, kind), (None, kind)) and region == at for color, kind, at in facts.things)
        for pair, region in answer.list_locations()
    )


def _sizes_match(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that no large thing is called small, nor a small one large."""
    sizes = {thing[:2]: size for thing, size in zip(facts.things, facts.sizes, strict=False)}
    pairs = ((mention.size, sizes.get((str(mention.color), str(mention.kind)))) for mention in answer.mentions)
    return all(set(pair) != {"small", "large"} for pair in pairs)


def _number_matches(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that a stated number of objects is the number of things."""
    objects = expression(answer.language, "objects")
    return values((m for m in answer.mentions if objects.match(answer.text, m.end)), "number") <= {len(facts.things)}


def _largest_matches(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the answer calls only things the largest that may be the largest."""
    clauses = [clause for clause in split_clauses(answer.text) if occurs(answer.language, "largest", clause)]
    largest = {*facts.largest, *((None, kind) for _, kind in facts.largest)}
    return not largest or largest >= set(list_names(answer.mentions_in(clauses)))


def _grade_value(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the answer gives only the correct color or region; for a claim, that it confirms or corrects it."""
    field = "color" if facts.aspect == "colour" else "region"
    if facts.claim is None:
        return values(answer.mentions, field) == {facts.value} and not answer.is_negated
    affirmed, negated = (values(answer.mentions_in(clauses), field) for clauses in (answer.affirmed, answer.negated))
    truths = [value == facts.value for value in affirmed]
    return facts.value not in negated and answer.answers_yes_no(facts.claim == facts.value, truths)


def _grade_count(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the answer gives the correct count and no other; counts of the parts of a listing do not matter.

    Without a number, a text with "one" counts as 1, and a negated text as 0.
    """
    numbers = values(answer.mentions, "number")
    if answer.is_negated:
        return numbers <= {0} and facts.value == 0
    if not numbers and occurs(answer.language, "one", answer.text):
        return facts.value == 1
    if len(numbers) > 1:  # "two red things: one ball and one car"
        with_next = zip(answer.mentions, [*answer.mentions[1:], Mention()], strict=True)
        numbers = values((mention for mention, after in with_next if not after.listed), "number")
    return numbers == {facts.value}


def _grade_existence(facts: Facts, answer: ParsedAnswer) -> bool:
    """Check that the yes or no is correct and not contradicted."""
    if facts.value:
        return not answer.is_negated and bool(THERE_IS.match(answer.text) or "有" in answer.text)
    return answer.is_negated and not YES.match(answer.text) and not values(answer.mentions, "region")


# Aspect -> its grader, and a field: the kinds and the values of this field in an answer must occur in the facts.
GRADERS: dict[str, tuple[Callable[[Facts, ParsedAnswer], bool], str]] = {
    "things": (_grade_things, "kind"),
    "colour": (_grade_value, "region"),
    "where": (_grade_value, "color"),
    "count": (_grade_count, "color"),
    "exists": (_grade_existence, "color"),
    "larger": (grade_larger, "kind"),
    "is_larger": (grade_is_larger, "kind"),
    "extreme": (grade_extreme, "kind"),
    "relation": (grade_relation, "kind"),
    "is_beside": (grade_is_beside, "kind"),
}
