"""Descriptions of a whole picture in three styles; the question's wording decides which one is meant.

The scene alone decides every word, so that a model can learn them exactly.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise

from tiny.asking.answers import list_ones, say_clause
from tiny.asking.facts import Facts, ThingFact
from tiny.words.sentences import Language
from tiny.words.vocabulary import join_list, name_count, name_one, name_region, name_thing


def describe_plainly(language: Language, facts: Facts) -> str:
    """What there is, and where each thing is."""
    listed, things = list_ones(language, facts.things), facts.things
    if len(things) == 1:
        place = name_region(language, things[0][2])
        return f"图片中有{listed}，它在{place}。" if language == "zh" else f"The picture shows {listed}. It is {place}."
    clauses = [say_clause(language, name_thing(language, kind, colour), place) for colour, kind, place in things]
    if language == "zh":
        return f"图片中有{listed}。{'，'.join(clauses)}。"
    sentence = f"{', '.join(clauses[:-1])}, and {clauses[-1]}."
    return f"The picture shows {listed}. {sentence[0].upper()}{sentence[1:]}"


def describe_briefly(language: Language, facts: Facts) -> str:
    """What there is, in one sentence."""
    listed = list_ones(language, facts.things)
    return f"图片中有{listed}。" if language == "zh" else f"The picture shows {listed}."


def describe_in_detail(language: Language, facts: Facts) -> str:
    """How many things there are, each with its size, colour and place, and the largest if that is beyond doubt.

    An odd number of things is told place by place, an even one thing by thing.
    """
    count = len(facts.things)
    if count == 1:
        return _describe_one(language, facts)
    clauses = _list_places(language, facts) if count % 2 else _list_things(language, facts)
    counted = name_count(language, count, None)
    start = f"图片中一共有{counted}。" if language == "zh" else f"There are {counted} in the picture. "
    end = _say_largest(language, facts) if len(facts.largest) == 1 else ""
    return (start + _join_sentences(language, clauses) + end).rstrip()


def _describe_one(language: Language, facts: Facts) -> str:
    (one,), place = _name_ones(language, facts), name_region(language, facts.things[0][2])
    if language == "zh":
        return f"图片中只有一个物体：{one}，它在{place}。"
    return f"There is only one object in the picture: {one}. It is {place}."


def _name_ones(language: Language, facts: Facts) -> list[str]:
    """一个小的红色的球 | a small red ball, for each thing"""
    pairs = zip(facts.things, facts.sizes, strict=True)
    return [name_one(language, kind, colour, size) for (colour, kind, _), size in pairs]


def _list_places(language: Language, facts: Facts) -> list[str]:
    """A clause for each part of the picture that is not empty: 左上角有一个红色的球"""
    pairs = list(zip(facts.things, _name_ones(language, facts), strict=True))
    places = [
        (name_region(language, place), join_list(language, [one for _, one in members]))
        for place, members in groupby(pairs, key=lambda pair: pair[0][2])
    ]
    if language == "zh":
        verbs = ["有", *["是"] * (len(places) - 2), "还有"]
        return [f"{place}{verb}{ones}" for (place, ones), verb in zip(places, verbs, strict=False)]
    verbs = ["there is", *["is"] * (len(places) - 2), "there is"]
    return [f"{place} {verb} {ones}" for (place, ones), verb in zip(places, verbs, strict=False)]


def _list_things(language: Language, facts: Facts) -> list[str]:
    """A clause for each thing: 一个红色的球在左上角"""
    clauses, places = [], _also_there(facts.things)
    for (_, _, place), one, also in zip(facts.things, _name_ones(language, facts), places, strict=True):
        at = name_region(language, place)
        if language == "zh":
            clauses.append(f"{one}{'也' if also else ''}在{at}")
        else:
            clauses.append(f"{one} is {'also ' if also else ''}{at}")
    return clauses


def _also_there(things: Sequence[ThingFact]) -> list[bool]:
    """For each thing whether the one before is in the same part of the picture."""
    return [False, *(thing[2] == last[2] for last, thing in pairwise(things))]


def _join_sentences(language: Language, clauses: list[str]) -> str:
    """One sentence of up to three clauses; else two, the first of two clauses."""
    parts = [clauses] if len(clauses) <= 3 else [clauses[:2], clauses[2:]]
    if language == "zh":
        return "".join("，".join(part) + "。" for part in parts)
    sentences = []
    for part in parts:
        text = f"{', '.join(part[:-1])}, and {part[-1]}. " if len(part) > 1 else f"{part[0]}. "
        sentences.append(text[0].upper() + text[1:])
    return "".join(sentences)


def _say_largest(language: Language, facts: Facts) -> str:
    """最大的是红色的球。 | The largest is the red ball."""
    ((colour, kind),) = facts.largest
    name = name_thing(language, kind, colour)
    return f"最大的是{name}。" if language == "zh" else f"The largest is the {name}."
