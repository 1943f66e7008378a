"""The one wording of every answer, in Chinese and English; `tiny.asking.descriptions` has those of descriptions."""

from collections.abc import Callable, Iterable

from tiny.asking.facts import Facts, ThingFact
from tiny.asking.relations import OPPOSITES
from tiny.words.sentences import Language
from tiny.words.vocabulary import (
    join_list,
    name_colour,
    name_count,
    name_one,
    name_region,
    name_side,
    name_thing,
    name_way,
)

REVERSED = {"larger": "smaller", "smaller": "larger"}


def say(language: Language, facts: Facts) -> str:
    """The answer that states these facts."""
    sayers: dict[str, Callable[[Language, Facts], str]] = {
        "things": say_things,
        "colour": say_colour,
        "where": say_place,
        "count": say_count,
        "exists": say_whether,
        "larger": say_larger,
        "is_larger": say_whether_larger,
        "extreme": say_extreme,
        "relation": say_beside,
        "is_beside": say_whether_beside,
    }
    return sayers[facts.aspect](language, facts)


def say_things(language: Language, facts: Facts) -> str:
    """图片中有一个红色的球。 | There is a red ball in the picture.   Or what is, or is not, in a part of it."""
    where = "图片中" if language == "zh" else "in the picture"
    if facts.region is not None:
        where = name_region(language, facts.region)
    if not facts.things:
        return f"{where}什么都没有。" if language == "zh" else f"There is nothing {where}."
    listed = list_ones(language, facts.things)
    return f"{where}有{listed}。" if language == "zh" else f"There is {listed} {where}."


def say_colour(language: Language, facts: Facts) -> str:
    """小汽车是蓝色的。 | The car is blue.   Asked of a place: 左上角的球是红色的。"""
    colour, kind, place = facts.things[0]
    name, colour = name_thing(language, kind), name_colour(language, colour)
    if facts.region is not None:
        at = name_region(language, place)
        name = f"{at}的{name}" if language == "zh" else f"{name} {at}"
    clause = f"{name}是{colour}的" if language == "zh" else f"the {name} is {colour}"
    return _finish(language, clause, None if facts.claim is None else facts.claim == facts.value)


def say_place(language: Language, facts: Facts) -> str:
    """红色的球在左上角。 | The red ball is in the top left corner.   With the colour where the question gave it."""
    colour, kind, place = facts.things[0]
    clause = say_clause(language, name_thing(language, kind, facts.colour and colour), place)
    return _finish(language, clause, None if facts.claim is None else facts.claim == facts.value)


def say_count(language: Language, facts: Facts) -> str:
    """图片中一共有三个物体。 | There are two balls in the picture.   Of none: 图片中没有球。"""
    count = len(facts.things)
    if not count and language == "zh":
        return say_absent(language, facts.kind, facts.colour)
    counted = name_count(language, count, facts.kind, facts.colour)
    if language == "zh":
        return f"图片中{'一共' if facts.kind is facts.colour is None else ''}有{counted}。"
    counted = counted if count else counted.replace("zero", "no", 1)
    return f"There {_be(count)} {counted} in the picture."


def say_whether(language: Language, facts: Facts) -> str:
    """有，图片中有一个红色的球。 | Yes, there is a red ball in the picture.   Or the opposite."""
    count, kind = len(facts.things), facts.kind
    if count == 0:
        absent = say_absent(language, kind, facts.colour)
        return f"没有，{absent}" if language == "zh" else f"No, {absent[0].lower()}{absent[1:]}"
    if kind is None:
        there = list_ones(language, facts.things)
    elif count == 1:
        there = name_one(language, kind, facts.colour)
    else:
        there = name_count(language, count, kind, facts.colour)
    if language == "zh":
        return f"有，图片中有{there}。"
    return f"Yes, there {'is' if kind is None else _be(count)} {there} in the picture."


def say_absent(language: Language, kind: str | None, colour: str | None) -> str:
    """图片中没有红色的球。 | There is no red ball in the picture.   Without a kind: nothing red."""
    if kind is None and language == "en":
        return f"There is nothing {colour} in the picture."
    name = name_thing(language, kind, colour)
    return f"图片中没有{name}。" if language == "zh" else f"There is no {name} in the picture."


def say_larger(language: Language, facts: Facts) -> str:
    """小汽车更大。 | The car is larger."""
    name = _name_pair(language, facts)[0 if facts.value else 1]
    way = name_way(language, str(facts.way))
    return f"{name}更{way}。" if language == "zh" else f"The {name} is {way}."


def say_whether_larger(language: Language, facts: Facts) -> str:
    """是的，小汽车比球大。 | No, the car is smaller than the ball."""
    name, other = _name_pair(language, facts)
    way = name_way(language, str(facts.way) if facts.value else REVERSED[str(facts.way)])
    clause = f"{name}比{other}{way}" if language == "zh" else f"the {name} is {way} than the {other}"
    return _finish(language, clause, bool(facts.value))


def say_extreme(language: Language, facts: Facts) -> str:
    """小汽车最大。 | The car is the largest."""
    name = name_thing(language, str(facts.kind), facts.colour)
    way = name_way(language, str(facts.way))
    return f"{name}{way}。" if language == "zh" else f"The {name} is {way}."


def say_beside(language: Language, facts: Facts) -> str:
    """小汽车的左边有一个红色的球。 | There is nothing to the left of the car."""
    place = _name_beside(language, facts, str(facts.way))
    if not facts.things:
        return f"{place}什么都没有。" if language == "zh" else f"There is nothing {place}."
    listed = list_ones(language, facts.things)
    return f"{place}有{listed}。" if language == "zh" else f"{_capitalise(place)} there is {listed}."


def say_whether_beside(language: Language, facts: Facts) -> str:
    """是的，球在小汽车的左边。 | No, the ball is to the right of the car."""
    name = name_thing(language, str(facts.kind), facts.colour)
    side = str(facts.way) if facts.value else OPPOSITES[str(facts.way)]
    place = _name_beside(language, facts, side)
    return _finish(language, f"{name}在{place}" if language == "zh" else f"the {name} is {place}", bool(facts.value))


def say_usual_colour(language: Language, it: str, colour: str) -> str:
    """草地通常是绿色的。 | Grass is usually green."""
    if language == "zh":
        return f"{it}通常是{name_colour(language, colour)}的。"
    return f"{_capitalise(it)} is usually {colour}."


def say_clause(language: Language, name: str, place: str) -> str:
    """球在左上角 | the ball is in the top left corner"""
    at = name_region(language, place)
    return f"{name}在{at}" if language == "zh" else f"the {name} is {at}"


def list_ones(language: Language, things: Iterable[ThingFact]) -> str:
    """一个红色的球和一棵绿色的树 | a red ball and a green tree"""
    return join_list(language, [name_one(language, kind, colour) for colour, kind, _ in things])


def _name_pair(language: Language, facts: Facts) -> tuple[str, str]:
    assert facts.kind is not None and facts.other is not None
    return name_thing(language, facts.kind, facts.colour), name_thing(language, *facts.other)


def _name_beside(language: Language, facts: Facts, side: str) -> str:
    """小汽车的左边 | to the left of the car"""
    assert facts.other is not None
    name = name_thing(language, *facts.other)
    if language == "zh":
        return f"{name}的{name_side(language, side)}"
    return f"{name_side(language, side)} the {name}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


def _finish(language: Language, clause: str, agrees: bool | None) -> str:
    """The clause as a sentence, after a yes or no where one was asked for."""
    if language == "zh":
        return {None: "", True: "是的，", False: "不是，"}[agrees] + clause + "。"
    start = {None: "", True: "Yes, ", False: "No, "}[agrees]
    return _capitalise(f"{start}{clause}.")
