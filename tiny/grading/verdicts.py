"""The verdict on an answer, and the count of the things that a description names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tiny.grading.answer import Answer, Pair, list_pairs, split_clauses
from tiny.grading.comparisons import agrees_beside, agrees_larger, agrees_whether_larger, names_beside, names_extreme
from tiny.grading.mentions import Mention, expression, find_mentions, occurs, values
from tiny.questions.facts import Example, Facts
from tiny.words.sentences import topics_of

# At the start of an answer in either language.
THERE_IS = re.compile(r"\W*(yes|yeah|there (is|are)\b|i (can )?see\b|有|是|对|能|看到)")
YES = re.compile(r"\W*(yes|yeah|有|是的|对)")


@dataclass(frozen=True)
class ThingScore:
    """How many things of a picture an answer names by kind and color.

    Attributes:
        right: those that are there.   wrong: those that are not.   missing: those that it leaves out.
    """

    right: int
    wrong: int
    missing: int


def is_right(example: Example, answer: str) -> bool:
    """Whether `answer` says what the facts of `example` demand and nothing that contradicts them."""
    facts, parts = example.facts, Answer(example.language, answer)
    if facts.aspect == "topic":
        return re.search(topics_of(example.language)[str(facts.value)].pattern, parts.text) is not None
    judge, field = JUDGES[facts.aspect]
    known = {
        "kind": {facts.kind, *(facts.other or ())[:1], *(kind for _, kind, _ in facts.things)},
        "color": {facts.color, *(color for color, _, _ in facts.things)},
        "region": {region for _, _, region in facts.things},
    }
    if any(values(parts.said, name) - known[name] for name in ("kind", field)):
        return False  # speaks of something that is not there and that nobody asked for
    return judge(facts, parts)


def score_things(example: Example, answer: str) -> ThingScore:
    """Count the things that `answer` names rightly, wrongly and not at all; for "describe" and "objects"."""
    expected = {thing[:2] for thing in example.facts.things}
    named = _name_pairs(list(find_mentions(example.language, answer.lower())))
    kinds = {kind for _, kind in expected}
    wrong = [(color, kind) for color, kind in named - expected if color is not None or kind not in kinds]
    right = len(named & expected)
    return ThingScore(right, len(wrong), len(expected) - right)


def _name_pairs(said: Sequence[Mention]) -> set[Pair]:
    """Return each (color, kind) that is named; a kind without its color only if it never has one."""
    pairs = list_pairs(said)
    colored = {kind for color, kind in pairs if color}
    return {(color, kind) for color, kind in pairs if color or kind not in colored}


def _names_all(facts: Facts, answer: Answer) -> bool:
    """Whether it names every thing with its color, none twice, no other thing, and nothing untrue about them."""
    if not facts.things:
        return answer.denies and not values(answer.said, "kind")
    if answer.denies or _name_pairs(answer.said) != {thing[:2] for thing in facts.things}:
        return False
    if facts.region is not None and values(answer.said, "region") - {facts.region}:
        return False
    checks = (_lists_once, _places_match, _sizes_match, _number_matches, _largest_matches)
    return all(check(facts, answer) for check in checks)


def _lists_once(facts: Facts, answer: Answer) -> bool:
    """Whether no thing comes twice in one breath, nor twice with an article, nor as more than one."""
    breaths = [answer.find_in([part]) for part in expression(answer.language, "breath").split(answer.text)]
    listed = [mention for mention in answer.said if mention.listed]
    return all(len(said) == len(set(said)) for said in map(list_pairs, (*breaths, listed))) and not any(
        (first.number or 0) > 1 and second.kind and second.color and second.start - first.end <= 1
        for first, second in pairwise(answer.said)
    )


def _places_match(facts: Facts, answer: Answer) -> bool:
    """Whether each place goes with its thing."""
    return all(
        any(pair in ((color, kind), (None, kind)) and place == at for color, kind, at in facts.things)
        for pair, place in answer.pair_places()
    )


def _sizes_match(facts: Facts, answer: Answer) -> bool:
    """Whether no large thing is called small, nor a small one large."""
    sizes = {thing[:2]: size for thing, size in zip(facts.things, facts.sizes, strict=False)}
    said = ((mention.size, sizes.get((str(mention.color), str(mention.kind)))) for mention in answer.said)
    return all(set(pair) != {"small", "large"} for pair in said)


def _number_matches(facts: Facts, answer: Answer) -> bool:
    """Whether it counts all objects where it says how many there are."""
    objects = expression(answer.language, "objects")
    return values((m for m in answer.said if objects.match(answer.text, m.end)), "number") <= {len(facts.things)}


def _largest_matches(facts: Facts, answer: Answer) -> bool:
    """Whether nothing is called the largest that is not."""
    clauses = [clause for clause in split_clauses(answer.text) if occurs(answer.language, "largest", clause)]
    largest = {*facts.largest, *((None, kind) for _, kind in facts.largest)}
    return not largest or largest >= set(list_pairs(answer.find_in(clauses)))


def _value_right(facts: Facts, answer: Answer) -> bool:
    """Whether it gives the color or place, and nothing else; of a claim, whether it confirms or corrects it."""
    field = "color" if facts.aspect == "colour" else "region"
    if facts.claim is None:
        return values(answer.said, field) == {facts.value} and not answer.denies
    stated, denied = (values(answer.find_in(clauses), field) for clauses in (answer.stated, answer.denied))
    truths = [value == facts.value for value in stated]
    return facts.value not in denied and answer.confirms(facts.claim == facts.value, truths)


def _count_right(facts: Facts, answer: Answer) -> bool:
    """Whether the one number in the answer is the right one."""
    numbers = values(answer.said, "number")
    if answer.denies:
        return numbers <= {0} and facts.value == 0
    if not numbers and occurs(answer.language, "one", answer.text):
        return facts.value == 1
    if len(numbers) > 1:  # "two red things: one ball and one car"
        followed = zip(answer.said, [*answer.said[1:], Mention()], strict=True)
        numbers = values((mention for mention, after in followed if not after.listed), "number")
    return numbers == {facts.value}


def _existence_right(facts: Facts, answer: Answer) -> bool:
    """Whether it says yes or no as it is, without a contradiction."""
    if facts.value:
        return not answer.denies and bool(THERE_IS.match(answer.text) or "有" in answer.text)
    return answer.denies and not YES.match(answer.text) and not values(answer.said, "region")


# Aspect -> its judge, and what an answer may name only as it is, beside kinds.
JUDGES: dict[str, tuple[Callable[[Facts, Answer], bool], str]] = {
    "things": (_names_all, "kind"),
    "colour": (_value_right, "region"),
    "where": (_value_right, "color"),
    "count": (_count_right, "color"),
    "exists": (_existence_right, "color"),
    "larger": (agrees_larger, "kind"),
    "is_larger": (agrees_whether_larger, "kind"),
    "extreme": (names_extreme, "kind"),
    "relation": (names_beside, "kind"),
    "is_beside": (agrees_beside, "kind"),
}
