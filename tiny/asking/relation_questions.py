"""Questions that compare things: which is larger, and what is beside what."""

from tiny.asking import choices
from tiny.asking.facts import Example, Facts
from tiny.asking.picture_questions import answer
from tiny.asking.relations import OPPOSITES, find_extreme
from tiny.scenes import Scene, Thing
from tiny.words.phrasing import name_fields, other_fields, side_field, way_fields, word_question
from tiny.words.sentences import Language, Rng, pick

EXTREMES = {"larger": "largest", "smaller": "smallest"}
FILLED_RATE = 0.8  # how often a question for what is beside a thing has something to name


def ask_larger(scene: Scene, rng: Rng, language: Language) -> Example:
    """Which of two is larger or smaller, whether one is, or which is the largest or smallest of all."""
    chance, way = rng.random(), pick(rng, tuple(EXTREMES))
    if chance < 0.27 and find_extreme(scene.things, EXTREMES[way]):
        question = word_question(rng, language, "extreme", **way_fields(rng, language, way))
        return answer("larger", language, question, Facts("extreme", way=EXTREMES[way]), scene)
    pair = pick(rng, choices.list_sized_pairs(scene))
    one, other = pair if rng.random() < 0.5 else pair[::-1]
    return ask_larger_of(scene, rng, language, one, other, way, chance < 0.55)


def ask_larger_of(
    scene: Scene, rng: Rng, language: Language, one: Thing, other: Thing, way: str, whether: bool
) -> Example:
    """Which of the two is larger or smaller; or whether the first one is."""
    name, second = choices.name_for(rng, scene, one), choices.name_for(rng, scene, other)
    fields = {**name_fields(rng, language, *name), **other_fields(rng, language, *second)}
    fields |= way_fields(rng, language, way)
    question = word_question(rng, language, "whether" if whether else "which", **fields)
    kind, colour = name
    query = Facts("is_larger" if whether else "larger", kind=kind, colour=colour, other=second, way=way)
    return answer("larger", language, question, query, scene)


def ask_relation(scene: Scene, rng: Rng, language: Language) -> Example:
    """What is on one side of a thing, or whether a thing is there."""
    pairs = choices.list_sided_pairs(scene) if rng.random() < 0.25 else []
    if pairs:
        return _ask_whether_beside(scene, rng, language, *pick(rng, pairs))
    references = choices.list_references(scene)
    filled = [reference for reference in references if reference[2]]
    thing, side, _ = pick(rng, filled if filled and rng.random() < FILLED_RATE else references)
    return ask_beside(scene, rng, language, thing, side)


def ask_beside(scene: Scene, rng: Rng, language: Language, thing: Thing, side: str) -> Example:
    """What is on that side of the thing."""
    name = choices.name_for(rng, scene, thing)
    fields = {**other_fields(rng, language, *name), **side_field(rng, language, side)}
    question = word_question(rng, language, "relation", **fields)
    return answer("relation", language, question, Facts("relation", other=name, way=side), scene)


def _ask_whether_beside(
    scene: Scene, rng: Rng, language: Language, thing: Thing, other: Thing, true_side: str
) -> Example:
    """Whether the thing is on the true side, or on the opposite one."""
    side = true_side if rng.random() < 0.5 else OPPOSITES[true_side]
    (kind, colour), second = choices.name_for(rng, scene, thing), choices.name_for(rng, scene, other)
    fields = {
        **name_fields(rng, language, kind, colour),
        **other_fields(rng, language, *second),
        **side_field(rng, language, side),
    }
    question = word_question(rng, language, "is_beside", **fields)
    query = Facts("is_beside", kind=kind, colour=colour, other=second, way=side)
    return answer("relation", language, question, query, scene)
