"""One function for each kind of question about a picture; `tiny.questions.ask` chooses among them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from tiny import answers
from tiny.grading import Example, Facts
from tiny.scenes import COLOURS, KINDS, Scene, Thing, region
from tiny.vocabulary import NOUNS, Language, add_article, add_colour
from tiny.wordings import wordings_of

Rng = np.random.Generator
T = TypeVar("T")

ALIAS_RATE = 0.1  # how often a question uses a further name of a kind


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Any one of the options."""
    return options[int(rng.integers(len(options)))]


def list_single(scene: Scene) -> list[Thing]:
    """The things that are the only one of their kind."""
    kinds = [thing.kind for thing in scene.things]
    return [thing for thing in scene.things if kinds.count(thing.kind) == 1]


def _list_facts(scene: Scene, kind: str | None = None, colour: str | None = None) -> tuple[tuple[str, str, str], ...]:
    """(colour, kind, region) of the things of that kind and colour, in reading order."""
    things = answers.order_things(scene.things)
    return tuple(
        (thing.colour, thing.kind, region(thing))
        for thing in things
        if kind in (None, thing.kind) and colour in (None, thing.colour)
    )


def word_question(rng: Rng, language: Language, topic: str, kind: str | None = None, colour: str | None = None) -> str:
    """A question of that topic about that kind and colour."""
    template = pick(rng, wordings_of(language, topic))
    if kind is not None:
        template = template.format(**_name_fields(rng, language, kind, colour))
    return vary(template, rng, language)


def _name_fields(rng: Rng, language: Language, kind: str, colour: str | None) -> dict[str, str]:
    noun = NOUNS[kind]
    others = noun.zh_others if language == "zh" else noun.en_others
    other = pick(rng, others) if others and rng.random() < ALIAS_RATE else None
    if language == "zh":
        name = add_colour(language, other or noun.zh, colour)
        return {"name": name, "measure": noun.measure}
    name, plural = other or noun.en, f"{other}s" if other else noun.plural
    name, plural = (add_colour(language, word, colour) for word in (name, plural))
    return {"name": name, "kinds": plural, "one": add_article(name)}


def vary(question: str, rng: Rng, language: Language) -> str:
    """The question as careless or polite people write it."""
    chance = rng.random()
    if language == "zh":
        if chance < 0.1:
            return question.replace("？", "?").replace("。", "")
        if chance < 0.25:
            return question.rstrip("？。")
        if chance < 0.35 and question.endswith("？"):
            return f"请问{question}"
    elif chance < 0.1:
        return question[0].lower() + question[1:]
    elif chance < 0.25:
        return question.rstrip("?.")
    return question


def ask_describe(scene: Scene, rng: Rng, language: Language) -> Example:
    question, answer = (
        word_question(rng, language, "describe"),
        answers.describe_things(language, scene.things),
    )
    return Example("describe", language, (), question, answer, Facts("things", things=_list_facts(scene)))


def ask_objects(scene: Scene, rng: Rng, language: Language) -> Example:
    question = word_question(rng, language, "objects")
    answer = answers.list_things(language, scene.things)
    return Example("objects", language, (), question, answer, Facts("things", things=_list_facts(scene)))


def ask_colour(scene: Scene, rng: Rng, language: Language) -> Example:
    thing = pick(rng, list_single(scene))
    return _about_colour("colour", thing, language, word_question(rng, language, "colour", thing.kind))


def _about_colour(name: str, thing: Thing, language: Language, question: str) -> Example:
    facts = Facts("colour", thing.colour, thing.kind, things=((thing.colour, thing.kind, region(thing)),))
    return Example(name, language, (), question, answers.say_colour(language, thing), facts)


def ask_where(scene: Scene, rng: Rng, language: Language) -> Example:
    thing = pick(rng, scene.things)
    named = thing not in list_single(scene) or rng.random() < 0.4
    question = word_question(rng, language, "where", thing.kind, thing.colour if named else None)
    return _about_place("where", thing, language, question, named)


def _about_place(name: str, thing: Thing, language: Language, question: str, named: bool) -> Example:
    """`named`: whether the question gave the colour, which the answer then repeats."""
    things = ((thing.colour, thing.kind, region(thing)),)
    facts = Facts("where", region(thing), thing.kind, thing.colour if named else None, things)
    return Example(name, language, (), question, answers.say_place(language, thing, named), facts)


def ask_count(scene: Scene, rng: Rng, language: Language) -> Example:
    if rng.random() < 0.45:
        answer = answers.count_all(language, len(scene.things))
        facts = Facts("count", len(scene.things), things=_list_facts(scene))
        return Example("count", language, (), word_question(rng, language, "count_all"), answer, facts)
    there = sorted({thing.kind for thing in scene.things})
    kind = pick(rng, there) if rng.random() < 0.8 else pick(rng, _missing_kinds(scene))
    things = _list_facts(scene, kind)
    answer = answers.count_kind(language, len(things), kind)
    facts = Facts("count", len(things), kind, things=things)
    return Example("count", language, (), word_question(rng, language, "count_kind", kind), answer, facts)


def _missing_kinds(scene: Scene) -> list[str]:
    return [kind for kind in KINDS if all(thing.kind != kind for thing in scene.things)]


def _missing_name(scene: Scene, rng: Rng) -> tuple[str, str | None]:
    """A (kind, colour) that is not there; half of the time only the colour or only the kind is wrong."""
    if rng.random() < 0.5:
        kind = pick(rng, _missing_kinds(scene))
        return kind, (pick(rng, COLOURS) if rng.random() < 0.4 else None)
    kind = pick(rng, scene.things).kind
    taken = {thing.colour for thing in scene.things if thing.kind == kind}
    return kind, pick(rng, [colour for colour in COLOURS if colour not in taken])


def ask_exists(scene: Scene, rng: Rng, language: Language) -> Example:
    if rng.random() < 0.5:
        kind, colour = _missing_name(scene, rng)
    else:
        thing = pick(rng, scene.things)
        kind, colour = thing.kind, thing.colour if rng.random() < 0.5 else None
    return _about_existence(scene, rng, language, kind, colour)


def _about_existence(scene: Scene, rng: Rng, language: Language, kind: str, colour: str | None) -> Example:
    things = _list_facts(scene, kind, colour)
    answer = answers.say_whether(language, len(things), kind, colour)
    facts = Facts("exists", bool(things), kind, colour, things)
    return Example("exists", language, (), word_question(rng, language, "exists", kind, colour), answer, facts)


def ask_absent(scene: Scene, rng: Rng, language: Language) -> Example:
    kind, colour = _missing_name(scene, rng)
    topic = "where" if colour or rng.random() < 0.5 else "colour"
    question = word_question(rng, language, topic, kind, colour)
    facts = Facts("exists", False, kind, colour)
    return Example("absent", language, (), question, answers.say_absent(language, kind, colour), facts)


def ask_follow_up(scene: Scene, rng: Rng, language: Language) -> Example:
    """A question about "it", the one thing of the exchange before, which is its history."""
    single = list_single(scene)
    thing = pick(rng, single or scene.things)
    first, aspect = _introduce(scene, rng, language, thing, thing in single)
    question = word_question(rng, language, aspect)
    if aspect == "it_colour":
        example = _about_colour("follow_up", thing, language, question)
    else:
        example = _about_place("follow_up", thing, language, question, first.facts.colour is not None)
    return replace(example, history=((first.question, first.answer),))


def _introduce(
    scene: Scene, rng: Rng, language: Language, thing: Thing, single: bool
) -> tuple[Example, Literal["it_colour", "it_where"]]:
    """An exchange about the thing alone, and what it left open."""
    if not single or rng.random() < 0.3:
        return _about_existence(scene, rng, language, thing.kind, thing.colour), "it_where"
    if rng.random() < 0.4:
        exists = _about_existence(scene, rng, language, thing.kind, None)
        return exists, "it_colour" if rng.random() < 0.5 else "it_where"
    if rng.random() < 0.5:
        question = word_question(rng, language, "colour", thing.kind)
        return _about_colour("colour", thing, language, question), "it_where"
    question = word_question(rng, language, "where", thing.kind)
    return _about_place("where", thing, language, question, False), "it_colour"
