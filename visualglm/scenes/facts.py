"""The facts of a question: the query, and its answer in a scene.

A query is a Facts object without an answer; `answer_facts` fills the answer in from a scene:

    answer_facts(Facts("where", kind="car"), scene).value          # "top left"
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from visualglm.scenes.relations import (
    are_confusable,
    find_extreme,
    is_larger,
    is_on_side,
    list_in_region,
    list_largest,
    list_on_side,
    sort_reading_order,
)
from visualglm.scenes.scene import Scene, Thing, region_of
from visualglm.scenes.sentences import Language

Aspect = Literal[
    "things", "colour", "where", "count", "exists", "larger", "is_larger", "extreme", "relation", "is_beside", "topic"
]
ThingFact = tuple[str, str, str]  # color, kind, region


@dataclass(frozen=True)
class Facts:
    """A query, and the facts that a correct answer must state.

    Attributes:
        aspect: what the question asks for. The yes-or-no aspects are "exists", "is_larger" and "is_beside".
        value: the color, region, count, yes or no, or the topic's name; for "larger", whether it is the thing named
            first; None if the things are the answer.
        kind, color: kind and color in the question; None if it does not specify them.
        things: (color, kind, region) of every thing that the answer may name, in reading order; for a comparison, first
            the one to which `way` applies; for "is_beside", first the one that was asked about.
        region: the region in the question.
        other: kind and color of the second thing in the question, to which the first is compared.
        way: "larger", "smaller", "largest", "smallest", or a side of `visualglm.scenes.relations.SIDES`.
        claim: the color or region that the question suggests, to be confirmed or corrected.
        sizes: size of each thing, if an answer may state it.
        largest: (color, kind) of all things that may be the largest.
    """

    aspect: Aspect
    value: str | int | bool | None = None
    kind: str | None = None
    color: str | None = None
    things: tuple[ThingFact, ...] = ()
    region: str | None = None
    other: tuple[str, str | None] | None = None
    way: str | None = None
    claim: str | None = None
    sizes: tuple[str, ...] = ()
    largest: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Example:
    """One question with its correct answer.

    Attributes:
        kind: question kind.   language: "zh" or "en".
        history: earlier (question, answer) pairs about the same scene, oldest first.
        question, answer: the question, and the reference answer to learn.
        facts: the facts that any correct answer must state.
    """

    kind: str
    language: Language
    history: tuple[tuple[str, str], ...]
    question: str
    answer: str
    facts: Facts


def list_matches(scene: Scene, kind: str | None = None, color: str | None = None) -> list[Thing]:
    """Return the things of that kind and color, in any order; None matches all."""
    return [thing for thing in scene.things if kind in (None, thing.kind) and color in (None, thing.color)]


def answer_facts(query: Facts, scene: Scene) -> Facts | None:
    """Return the query with its answer in this scene; None if that is ambiguous or a queried thing is absent."""
    answerers: dict[str, Callable[[Facts, Scene], Facts | None]] = {
        "things": _answer_things,
        "colour": _answer_one,
        "where": _answer_one,
        "count": _answer_matches,
        "exists": _answer_matches,
        "larger": _answer_larger,
        "is_larger": _answer_larger,
        "extreme": _answer_extreme,
        "relation": _answer_relation,
        "is_beside": _answer_is_beside,
    }
    return answerers[query.aspect](query, scene)


def has_same_answer(example: Example, scene: Scene) -> bool:
    """Check whether the correct answer to `example` is the same in `scene`; true for text questions."""
    if example.kind == "text":
        return True
    here, there = example.facts, answer_facts(example.facts, scene)
    if there is None:
        return False
    match here.aspect:
        case "things":
            by_region = example.kind == "describe" or here.region is not None
            return _key(here, by_region) == _key(there, by_region)
        case "relation":
            return _key(here, False) == _key(there, False)
        case "extreme":
            return _name_same(here, there)
        case "colour" | "where" if here.kind is None:
            return (here.value, here.things[0][:2]) == (there.value, there.things[0][:2])
    return here.value == there.value


def _key(facts: Facts, by_region: bool) -> set[tuple[str, ...]]:
    return {thing if by_region else thing[:2] for thing in facts.things}


def _name_same(here: Facts, there: Facts) -> bool:
    """Check whether both answers name the same thing; a color counts only if one of the answers gives it."""
    (color, kind, _), (other_color, other_kind, _) = here.things[0], there.things[0]
    return kind == other_kind and (color == other_color or here.color is there.color is None)


def _describe(things: list[Thing]) -> tuple[ThingFact, ...]:
    return tuple((thing.color, thing.kind, region_of(thing)) for thing in things)


def _answer_things(query: Facts, scene: Scene) -> Facts | None:
    things = sort_reading_order(scene.things) if query.region is None else list_in_region(scene.things, query.region)
    if things is None:
        return None
    largest = tuple((thing.color, thing.kind) for thing in list_largest(scene.things))
    return replace(query, things=_describe(things), sizes=tuple(thing.size for thing in things), largest=largest)


def _answer_one(query: Facts, scene: Scene) -> Facts | None:
    """Answer for the color or region of the only thing that matches the query."""
    things = list_matches(scene, query.kind, query.color)
    if query.region is not None:
        things = list_in_region(things, query.region) or []
    if len(things) != 1:
        return None
    (thing,) = things
    if query.aspect == "where" and query.claim and are_confusable(query.claim, region_of(thing)):
        return None
    value = thing.color if query.aspect == "colour" else region_of(thing)
    return replace(query, value=value, things=_describe(things))


def _answer_matches(query: Facts, scene: Scene) -> Facts:
    things = sort_reading_order(list_matches(scene, query.kind, query.color))
    value = len(things) if query.aspect == "count" else bool(things)
    return replace(query, value=value, things=_describe(things))


def _find_pair(query: Facts, scene: Scene) -> tuple[Thing, Thing] | None:
    """Return the two things in the query, if each is unambiguous."""
    assert query.other is not None
    firsts, seconds = list_matches(scene, query.kind, query.color), list_matches(scene, *query.other)
    if len(firsts) != 1 or len(seconds) != 1 or firsts == seconds:
        return None
    return firsts[0], seconds[0]


def _answer_larger(query: Facts, scene: Scene) -> Facts | None:
    pair = _find_pair(query, scene)
    if pair is None or not (is_larger(*pair) or is_larger(*pair[::-1])):
        return None
    agrees = is_larger(*pair) == (query.way == "larger")
    things = _describe(list(pair if agrees else pair[::-1]))
    return replace(query, value=agrees, things=things)


def _answer_extreme(query: Facts, scene: Scene) -> Facts | None:
    """Answer for the largest or smallest thing; the color is named if its kind is not unique."""
    thing = find_extreme(scene.things, str(query.way))
    if thing is None:
        return None
    rest = [other for other in scene.things if other != thing]
    color = thing.color if any(other.kind == thing.kind for other in rest) else None
    return replace(query, kind=thing.kind, color=color, things=_describe([thing, *rest]))


def _answer_relation(query: Facts, scene: Scene) -> Facts | None:
    assert query.other is not None
    references = list_matches(scene, *query.other)
    if len(references) != 1:
        return None
    things = list_on_side(scene.things, references[0], str(query.way))
    return None if things is None else replace(query, things=_describe(things))


def _answer_is_beside(query: Facts, scene: Scene) -> Facts | None:
    """Answer yes if the thing is on that side, no if it is on the opposite one; None in between."""
    pair = _find_pair(query, scene)
    if pair is None:
        return None
    agrees, opposite = is_on_side(*pair, str(query.way)), is_on_side(pair[1], pair[0], str(query.way))
    if not (agrees or opposite):
        return None
    return replace(query, value=bool(agrees), things=_describe(list(pair)))
