"""Words answers and descriptions by the templates of visualglm/scenes/wordings/*/answers.toml.

The facts determine every word, so that a model can learn the answers exactly.
"""

from collections.abc import Callable, Iterable
from itertools import groupby

from visualglm.scenes.facts import Facts, ThingFact
from visualglm.scenes.relations import OPPOSITES
from visualglm.scenes.sentences import Language, capitalize, read_sentences
from visualglm.scenes.vocabulary import (
    join_list,
    name_color,
    name_count,
    name_one,
    name_region,
    name_side,
    name_thing,
    name_way,
)

REVERSED = {"larger": "smaller", "smaller": "larger"}


def word_answer(language: Language, facts: Facts) -> str:
    """Return the answer that states these facts."""
    writers: dict[str, Callable[[Language, Facts], str]] = {
        "things": word_things,
        "colour": word_color,
        "where": word_region,
        "count": word_count,
        "exists": word_existence,
        "larger": word_larger,
        "is_larger": word_is_larger,
        "extreme": word_extreme,
        "relation": word_relation,
        "is_beside": word_is_beside,
    }
    return writers[facts.aspect](language, facts)


def word_things(language: Language, facts: Facts) -> str:
    """State which things are in the image, or in one region of it."""
    region = facts.region
    place = _fill(language, "in_picture") if region is None else name_region(language, region)
    return _list_at(language, "things", place, facts.things)


def word_color(language: Language, facts: Facts) -> str:
    """State the color of a thing, with its region if the question asked by region."""
    color, kind, place = facts.things[0]
    name = name_thing(language, kind)
    if facts.region is not None:
        name = _fill(language, "name_at", name=name, place=name_region(language, place))
    clause = _fill(language, "colour", name=name, colour=name_color(language, color))
    return _finish(language, clause, _confirm(facts))


def word_region(language: Language, facts: Facts) -> str:
    """State the region of a thing, with its color if the question gave it."""
    color, kind, place = facts.things[0]
    name = name_thing(language, kind, facts.color and color)
    return _finish(language, _place(language, name, place), _confirm(facts))


def word_count(language: Language, facts: Facts) -> str:
    """State how many things there are, or that there are none."""
    count, kind, color = len(facts.things), facts.kind, facts.color
    if not count:
        return _finish(language, _fill(language, "none", name=name_thing(language, kind, color, 0)))
    counted, key = name_count(language, count, kind, color), "count_all" if kind is color is None else "count"
    return _finish(language, _fill(language, key, count=counted, be=_be(count)))


def word_existence(language: Language, facts: Facts) -> str:
    """State whether there is a thing of a kind and color."""
    count, kind = len(facts.things), facts.kind
    if count == 0:
        return _finish(language, _absent(language, kind, facts.color), "there_is_not")
    if kind is None:
        there = list_ones(language, facts.things)
    elif count == 1:
        there = name_one(language, kind, facts.color)
    else:
        there = name_count(language, count, kind, facts.color)
    be = "is" if kind is None else _be(count)
    return _finish(language, _fill(language, "exist", things=there, be=be), "there_is")


def word_absence(language: Language, kind: str | None, color: str | None) -> str:
    """State that there is nothing of a kind and color."""
    return _finish(language, _absent(language, kind, color))


def word_larger(language: Language, facts: Facts) -> str:
    """State which of two things is larger or smaller."""
    name = _name_pair(language, facts)[0 if facts.value else 1]
    return _finish(language, _fill(language, "larger", name=name, way=name_way(language, str(facts.way))))


def word_is_larger(language: Language, facts: Facts) -> str:
    """State whether one thing is larger or smaller than another."""
    name, other = _name_pair(language, facts)
    way = name_way(language, str(facts.way) if facts.value else REVERSED[str(facts.way)])
    clause = _fill(language, "is_larger", name=name, other=other, way=way)
    return _finish(language, clause, "yes" if facts.value else "no")


def word_extreme(language: Language, facts: Facts) -> str:
    """State which thing is the largest or smallest."""
    name = name_thing(language, facts.kind, facts.color)
    return _finish(language, _fill(language, "extreme", name=name, way=name_way(language, str(facts.way))))


def word_relation(language: Language, facts: Facts) -> str:
    """State which things are on one side of a thing."""
    return _list_at(language, "things_beside", _beside(language, facts, str(facts.way)), facts.things)


def word_is_beside(language: Language, facts: Facts) -> str:
    """State whether one thing is on the asked side of another."""
    side = str(facts.way) if facts.value else OPPOSITES[str(facts.way)]
    name = name_thing(language, facts.kind, facts.color)
    clause = _fill(language, "place", name=name, place=_beside(language, facts, side))
    return _finish(language, clause, "yes" if facts.value else "no")


def word_usual_color(language: Language, it: str, color: str) -> str:
    """State the usual color of a common thing."""
    return _finish(language, _fill(language, "usual_colour", it=it, colour=name_color(language, color)))


def describe_plainly(language: Language, facts: Facts) -> str:
    """Name the things, then state the region of each."""
    listed, things = list_ones(language, facts.things), facts.things
    if len(things) == 1:
        return _fill(language, "shows_one", things=listed, place=name_region(language, things[0][2]))
    clauses = [_place(language, name_thing(language, kind, color), place) for color, kind, place in things]
    return _join(language, describe_briefly(language, facts), _join_clauses(language, clauses))


def describe_briefly(language: Language, facts: Facts) -> str:
    """Name the things in one sentence."""
    return _fill(language, "shows", things=list_ones(language, facts.things))


def describe_in_detail(language: Language, facts: Facts) -> str:
    """State the number of things, then size, color and region of each, and the largest if it is unambiguous.

    An odd number of things is described region by region, an even one thing by thing. If there are more than three
    clauses, the first two form a separate sentence.
    """
    count = len(facts.things)
    pairs = zip(facts.things, facts.sizes, strict=True)
    ones = [name_one(language, kind, color, size) for (color, kind, _), size in pairs]
    places = [name_region(language, place) for _, _, place in facts.things]
    if count == 1:
        return _fill(language, "detail_one", things=ones[0], place=places[0])
    clauses = (_list_places if count % 2 else _list_things)(language, ones, places)
    parts = [clauses] if len(clauses) <= 3 else [clauses[:2], clauses[2:]]
    sentences = [_join_clauses(language, part) for part in parts]
    if len(facts.largest) == 1:
        ((color, kind),) = facts.largest
        sentences.append(_fill(language, "largest", name=name_thing(language, kind, color)))
    return _join(language, _fill(language, "detail", count=name_count(language, count, None)), *sentences)


def _list_places(language: Language, ones: list[str], places: list[str]) -> list[str]:
    """Return one clause per occupied region: 左上角有一个红色的球."""
    groups = groupby(zip(places, ones, strict=True), key=lambda pair: pair[0])
    filled = [(place, join_list(language, [one for _, one in members])) for place, members in groups]
    keys = ["first_place", *["next_place"] * (len(filled) - 2), "last_place"]
    return [_fill(language, key, place=at, things=all_) for (at, all_), key in zip(filled, keys, strict=False)]


def _list_things(language: Language, ones: list[str], places: list[str]) -> list[str]:
    """Return one clause per thing: 一个红色的球在左上角."""
    return [
        _fill(language, "thing_also" if place == last else "thing", things=one, place=place)
        for one, place, last in zip(ones, places, ["", *places[:-1]], strict=True)
    ]


def _join_clauses(language: Language, clauses: list[str]) -> str:
    """Join clauses into one sentence."""
    if language == "zh":
        return _finish(language, "，".join(clauses))
    *first, last = clauses
    return _finish(language, f"{', '.join(first)}, and {last}" if first else last)


def _join(language: Language, *sentences: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def list_ones(language: Language, things: Iterable[ThingFact]) -> str:
    """Return 一个红色的球和一棵绿色的树 | a red ball and a green tree."""
    return join_list(language, [name_one(language, kind, color) for color, kind, _ in things])


def _fill(language: Language, key: str, **fields: str) -> str:
    """Fill in a template of answers.toml."""
    template: str = read_sentences(f"{language}/answers")[key]
    return template.format(**fields)


def _finish(language: Language, clause: str, key: str = "statement") -> str:
    """Return a clause as a sentence."""
    return capitalize(_fill(language, key, clause=clause))


def _confirm(facts: Facts) -> str:
    """Return the template of the reply to a claim: statement, yes or no."""
    return "statement" if facts.claim is None else "yes" if facts.claim == facts.value else "no"


def _list_at(language: Language, key: str, place: str, things: tuple[ThingFact, ...]) -> str:
    """State which things are at a location, or that nothing is."""
    listed = list_ones(language, things) if things else ""
    return _finish(language, _fill(language, key if things else "nothing", place=place, things=listed))


def _place(language: Language, name: str, region: str) -> str:
    return _fill(language, "place", name=name, place=name_region(language, region))


def _absent(language: Language, kind: str | None, color: str | None) -> str:
    if kind is None:
        return _fill(language, "absent_colour", colour=name_color(language, str(color)))
    return _fill(language, "absent", name=name_thing(language, kind, color))


def _name_pair(language: Language, facts: Facts) -> tuple[str, str]:
    assert facts.other is not None
    return name_thing(language, facts.kind, facts.color), name_thing(language, *facts.other)


def _beside(language: Language, facts: Facts, side: str) -> str:
    """Return 小汽车的左边 | to the left of the car."""
    assert facts.other is not None
    return _fill(language, "beside", name=name_thing(language, *facts.other), side=name_side(language, side))


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
