"""The one wording of every answer, in Chinese and English."""

from collections.abc import Iterable, Sequence

from tiny.scenes import REGIONS, Thing, region
from tiny.vocabulary import (
    EN_NUMBERS,
    NOUNS,
    ZH_NUMBERS,
    Language,
    join_list,
    name_colour,
    name_count,
    name_one,
    name_region,
    name_thing,
)


def order_things(things: Iterable[Thing]) -> list[Thing]:
    """Reading order: region by region, row by row, and from left to right within a region."""
    return sorted(things, key=lambda thing: (REGIONS.index(region(thing)), thing.x))


def describe_things(language: Language, things: Sequence[Thing]) -> str:
    """What there is, and where each thing is."""
    ordered = order_things(things)
    listed = join_list(language, [name_one(language, thing.kind, thing.colour) for thing in ordered])
    if len(ordered) == 1:
        place = name_region(language, region(ordered[0]))
        return f"图片中有{listed}，它在{place}。" if language == "zh" else f"The picture shows {listed}. It is {place}."
    clauses = [_place_clause(language, thing, named=True) for thing in ordered]
    if language == "zh":
        return f"图片中有{listed}。{'，'.join(clauses)}。"
    return f"The picture shows {listed}. {_capitalise(', '.join(clauses[:-1]))}, and {clauses[-1]}."


def list_things(language: Language, things: Sequence[Thing]) -> str:
    """What there is."""
    listed = join_list(language, [name_one(language, thing.kind, thing.colour) for thing in order_things(things)])
    return f"图片中有{listed}。" if language == "zh" else f"There is {listed} in the picture."


def say_colour(language: Language, thing: Thing) -> str:
    """小汽车是蓝色的。 | The car is blue."""
    name, colour = name_thing(language, thing.kind), name_colour(language, thing.colour)
    return f"{name}是{colour}的。" if language == "zh" else _start_sentence(f"the {name} is {colour}")


def say_place(language: Language, thing: Thing, named: bool) -> str:
    """红色的球在左上角。 | The red ball is in the top left corner.   (`named`: with the colour)"""
    clause = _place_clause(language, thing, named)
    return f"{clause}。" if language == "zh" else _start_sentence(clause)


def count_all(language: Language, count: int) -> str:
    """图片中一共有三个物体。 | There are three objects in the picture."""
    if language == "zh":
        return f"图片中一共有{ZH_NUMBERS[count]}个物体。"
    return f"There {_be(count)} {EN_NUMBERS[count]} object{'' if count == 1 else 's'} in the picture."


def count_kind(language: Language, count: int, kind: str) -> str:
    """图片中有两个球。 | There are two balls in the picture.   Of none: 图片中没有球。"""
    if language == "zh":
        return f"图片中有{name_count(language, count, kind)}。" if count else say_absent(language, kind, None)
    counted = name_count(language, count, kind) if count else f"no {NOUNS[kind].plural}"
    return f"There {_be(count)} {counted} in the picture."


def say_whether(language: Language, count: int, kind: str, colour: str | None) -> str:
    """有，图片中有一个红色的球。 | Yes, there is a red ball in the picture.   Or the opposite."""
    if count == 0:
        absent = say_absent(language, kind, colour)
        return f"没有，{absent}" if language == "zh" else f"No, {absent[0].lower()}{absent[1:]}"
    there = name_one(language, kind, colour) if count == 1 else name_count(language, count, kind)
    return f"有，图片中有{there}。" if language == "zh" else f"Yes, there {_be(count)} {there} in the picture."


def say_absent(language: Language, kind: str, colour: str | None) -> str:
    """图片中没有红色的球。 | There is no red ball in the picture."""
    name = name_thing(language, kind, colour)
    return f"图片中没有{name}。" if language == "zh" else f"There is no {name} in the picture."


def say_usual_colour(language: Language, it: str, colour: str) -> str:
    """草地通常是绿色的。 | Grass is usually green."""
    if language == "zh":
        return f"{it}通常是{name_colour(language, colour)}的。"
    return _start_sentence(f"{it} is usually {colour}")


def _place_clause(language: Language, thing: Thing, named: bool) -> str:
    name = name_thing(language, thing.kind, thing.colour if named else None)
    place = name_region(language, region(thing))
    return f"{name}在{place}" if language == "zh" else f"the {name} is {place}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


def _start_sentence(clause: str) -> str:
    return f"{_capitalise(clause)}."
