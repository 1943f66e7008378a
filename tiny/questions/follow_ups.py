"""Follow-up questions that depend on the preceding turn: about "it", "the second one", or "and the car?"."""

from collections.abc import Callable
from dataclasses import replace

from tiny.questions import choices
from tiny.questions.image_questions import (
    EXTREMES,
    answer,
    ask_color_of,
    ask_count_of,
    ask_existence,
    ask_relation_of,
    ask_where_of,
)
from tiny.words.phrasing import name_fields, other_fields, side_field, way_fields, word_question
from tiny.words.sentences import Language, Rng, pick
from visualglm.scenes import Scene, Thing
from visualglm.scenes.answers import word_absence
from visualglm.scenes.facts import Example, Facts

ABSENT_RATE = 0.12  # share of "and the car?" questions about an absent thing
Asker = Callable[[Scene, Rng, Language], Example | None]


def ask_follow_up(scene: Scene, rng: Rng, language: Language) -> Example:
    """Sample a follow-up question, with one preceding turn as its history."""
    chance = rng.random()
    askers: tuple[tuple[float, Asker], ...] = (
        (0.1, _ask_relation_of_it),
        (0.2, _ask_size_of_it),
        (0.42, _ask_other),
        (0.68, _ask_same_of_another),
    )
    for end, ask in askers:
        if chance < end and (example := ask(scene, rng, language)) is not None:
            return example
    return _ask_about_it(scene, rng, language)


def _after(first: Example, example: Example) -> Example:
    return replace(example, history=((first.question, first.answer),))


def _ask_about_it(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask for the color or region of the only thing in the preceding turn."""
    single = choices.list_unique(scene)
    thing = pick(rng, single or scene.things)
    first, aspect = _introduce(scene, rng, language, thing, thing in single)
    question = word_question(rng, language, f"it_{aspect}")
    if aspect == "colour":
        query = Facts("colour", kind=thing.kind)
    else:
        query = Facts("where", kind=thing.kind, color=first.facts.color)
    return _after(first, answer("follow_up", language, question, query, scene))


def _introduce(scene: Scene, rng: Rng, language: Language, thing: Thing, single: bool) -> tuple[Example, str]:
    """Sample a turn about the thing; return it, and an aspect that it leaves open."""
    if not single or rng.random() < 0.3:
        return ask_existence(scene, rng, language, thing.kind, thing.color), "where"
    if rng.random() < 0.4:
        return ask_existence(scene, rng, language, thing.kind, None), "colour" if rng.random() < 0.5 else "where"
    if rng.random() < 0.5:
        return ask_color_of(scene, rng, language, thing.kind), "where"
    return ask_where_of(scene, rng, language, thing.kind, None), "colour"


def _ask_relation_of_it(scene: Scene, rng: Rng, language: Language) -> Example | None:
    """Ask which things are on one side of it."""
    references = choices.list_references(scene)
    if not references:
        return None
    thing, side, _ = pick(rng, [reference for reference in references if reference[2]] or references)
    first, _ = _introduce(scene, rng, language, thing, thing in choices.list_unique(scene))
    question = word_question(rng, language, "it_relation", **side_field(rng, language, side))
    query = Facts("relation", other=(thing.kind, first.facts.color), way=side)
    return _after(first, answer("follow_up", language, question, query, scene))


def _ask_size_of_it(scene: Scene, rng: Rng, language: Language) -> Example | None:
    """Ask whether it is larger or smaller than another thing."""
    pairs = choices.list_size_pairs(scene)
    if not pairs:
        return None
    one, other = pick(rng, pairs)[:: 1 if rng.random() < 0.5 else -1]
    way, second = pick(rng, tuple(EXTREMES)), choices.sample_name(rng, scene, other)
    first, _ = _introduce(scene, rng, language, one, one in choices.list_unique(scene))
    fields = {**other_fields(rng, language, *second), **way_fields(rng, language, way)}
    question = word_question(rng, language, "it_whether", **fields)
    query = Facts("is_larger", kind=one.kind, color=first.facts.color, other=second, way=way)
    return _after(first, answer("follow_up", language, question, query, scene))


def _ask_other(scene: Scene, rng: Rng, language: Language) -> Example | None:
    """Ask the same about the second thing, if a kind occurs exactly twice or the scene has two things."""
    kinds = [thing.kind for thing in scene.things]
    twice = [thing for thing in scene.things if kinds.count(thing.kind) == 2]
    if twice:
        return _ask_other_of_kind(scene, rng, language, pick(rng, twice))
    if len(kinds) != 2:
        return None
    one, other = scene.things[:: 1 if rng.random() < 0.5 else -1]
    aspect = "colour" if rng.random() < 0.5 else "where"
    first = _ask_aspect(scene, rng, language, aspect, one.kind, None)
    question = word_question(rng, language, "other" if rng.random() < 0.5 else f"other_{aspect}", measure="个")
    query = Facts("colour" if aspect == "colour" else "where", kind=other.kind)
    return _after(first, answer("follow_up", language, question, query, scene))


def _ask_other_of_kind(scene: Scene, rng: Rng, language: Language, one: Thing) -> Example:
    (other,) = (thing for thing in scene.things if thing.kind == one.kind and thing != one)
    first = ask_where_of(scene, rng, language, one.kind, one.color)
    topic = "other_name" if rng.random() < 0.6 else "other" if rng.random() < 0.5 else "other_where"
    question = word_question(rng, language, topic, **name_fields(rng, language, one.kind))
    query = Facts("where", kind=other.kind, color=other.color)
    return _after(first, answer("follow_up", language, question, query, scene))


def _ask_aspect(scene: Scene, rng: Rng, language: Language, aspect: str, kind: str, color: str | None) -> Example:
    """Ask about one aspect of a thing."""
    match aspect:
        case "colour":
            return ask_color_of(scene, rng, language, kind)
        case "where":
            return ask_where_of(scene, rng, language, kind, color)
        case "count":
            return ask_count_of(scene, rng, language, kind, None)
    return ask_existence(scene, rng, language, kind, color)


def _ask_same_of_another(scene: Scene, rng: Rng, language: Language) -> Example | None:
    """Ask the same aspect of another thing or side: "and the car?", "and to the right?"."""
    aspect = pick(rng, ("colour", "where", "where", "count", "exists", "side"))
    if aspect == "side":
        return _ask_other_side(scene, rng, language)
    things = choices.list_unique(scene) if aspect == "colour" else list(scene.things)
    if not things:
        return None
    thing = pick(rng, things)
    first_kind, first_color = choices.sample_name(rng, scene, thing)
    first = _ask_aspect(scene, rng, language, aspect, first_kind, first_color)
    others = [other for other in things if other.kind != thing.kind]
    missing = 0.4 if aspect in ("count", "exists") else ABSENT_RATE
    if not others or rng.random() < missing:
        return _after(first, _ask_same_of_absent(scene, rng, language, aspect))
    kind, color = choices.sample_name(rng, scene, pick(rng, others))
    color = None if aspect in ("colour", "count") else color
    return _after(first, _ask_same_of(scene, rng, language, aspect, kind, color))


def _ask_same_of(scene: Scene, rng: Rng, language: Language, aspect: str, kind: str, color: str | None) -> Example:
    topic = {"count": "too_count", "exists": "too_exists"}.get(aspect, "too")
    question = word_question(rng, language, topic, **name_fields(rng, language, kind, color))
    queries = {
        "colour": Facts("colour", kind=kind),
        "where": Facts("where", kind=kind, color=color),
        "count": Facts("count", kind=kind),
        "exists": Facts("exists", kind=kind, color=color),
    }
    return answer("follow_up", language, question, queries[aspect], scene)


def _ask_same_of_absent(scene: Scene, rng: Rng, language: Language, aspect: str) -> Example:
    """Ask "and the car?" in a scene without a car."""
    kind = choices.pick_missing_kind(rng, scene)
    if aspect in ("count", "exists"):
        return _ask_same_of(scene, rng, language, aspect, kind, None)
    question = word_question(rng, language, "too", **name_fields(rng, language, kind))
    return Example(
        "follow_up", language, (), question, word_absence(language, kind, None), Facts("exists", False, kind)
    )


def _ask_other_side(scene: Scene, rng: Rng, language: Language) -> Example | None:
    references = choices.list_references(scene)
    pairs = [(one, two) for one in references for two in references if one[0] == two[0] and one[1] != two[1]]
    if not pairs:
        return None
    (thing, side, _), (_, second, _) = pick(rng, [pair for pair in pairs if pair[1][2]] or pairs)
    first = ask_relation_of(scene, rng, language, thing, side)
    name = first.facts.other
    assert name is not None
    fields = {**other_fields(rng, language, *name), **side_field(rng, language, second)}
    question = word_question(rng, language, "side_too", **fields)
    return _after(first, answer("follow_up", language, question, Facts("relation", other=name, way=second), scene))
