"""Draws a random scene, with questions about it and their true answers in both languages."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visualglm.scenes.answers import word_answer
from visualglm.scenes.facts import Facts, answer_facts
from visualglm.scenes.relations import SIDES
from visualglm.scenes.scene import HELD_OUT, REGIONS, Scene, render_scene, sample_scene
from visualglm.scenes.sentences import LANGUAGES, Language, read_sentences
from visualglm.scenes.shapes import COLORS, KINDS
from visualglm.scenes.vocabulary import name_one, name_region, name_side, name_thing, name_way

IMAGE_SIZE = 448  # pixels, as the examples of the page
MIN_THINGS = 3  # fewer leave too little to ask


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene, and its true answer.

    Attributes:
        question, answer: by language, "zh" and "en".
    """

    question: dict[Language, str]
    answer: dict[Language, str]


@dataclass(frozen=True)
class DrawnScene:
    """A scene that was drawn, with what can be asked about it.

    Attributes:
        image: RGB, IMAGE_SIZE by IMAGE_SIZE pixels.
        questions: different questions, each of another kind.
    """

    image: Image.Image
    questions: list[SceneQuestion]


def draw_scene(seed: int) -> DrawnScene:
    """Draw a random scene of 3 to 5 things, with five to eight questions.

    Args:
        seed: determines the scene and the questions; 0 or greater.

    Raises:
        ValueError: the seed is negative.
    """
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    while len(scene.things) < MIN_THINGS:
        scene = sample_scene(rng)
    return DrawnScene(render_scene(scene, IMAGE_SIZE), [_word(facts) for facts in sample_facts(scene, rng)])


def sample_facts(scene: Scene, rng: np.random.Generator) -> Iterator[Facts]:
    """Yield an answered query of each kind for which the scene has an unambiguous answer."""
    kinds = [thing.kind for thing in scene.things]
    names = [(thing.kind, thing.color if kinds.count(thing.kind) > 1 else None) for thing in scene.things]
    queries: tuple[list[Facts], ...] = (
        [Facts("things")],
        [Facts("count")],
        [Facts("colour", kind=kind) for kind in kinds],
        [Facts("where", kind=kind, color=color) for kind, color in names],
        [Facts("things", region=region) for region in REGIONS],
        _existence_queries(scene, there=bool(rng.random() < 0.5)),
        [Facts("extreme", way=way) for way in ("largest", "smallest")],
        [Facts("relation", other=name, way=side) for name in names for side in SIDES],
    )
    for candidates in queries:
        order = rng.permutation(len(candidates))
        yield from _first_answered((candidates[index] for index in order), scene)


def _existence_queries(scene: Scene, there: bool) -> list[Facts]:
    """Return the queries for the things that are in the scene, or for the ones that are not."""
    present = {(thing.color, thing.kind) for thing in scene.things}
    pairs = [(color, kind) for color in COLORS for kind in KINDS if ((color, kind) in present) == there]
    return [Facts("exists", kind=kind, color=color) for color, kind in pairs if (color, kind) not in HELD_OUT]


def _first_answered(queries: Iterable[Facts], scene: Scene) -> list[Facts]:
    """Return the first query with an unambiguous answer that names a thing or says no; none if there is none."""
    for query in queries:
        facts = answer_facts(query, scene)
        if facts is not None and (facts.things or facts.aspect == "exists"):
            return [facts]
    return []


def _word(facts: Facts) -> SceneQuestion:
    return SceneQuestion(
        {language: word_question(language, facts) for language in LANGUAGES},
        {language: word_answer(language, facts) for language in LANGUAGES},
    )


def word_question(language: Language, facts: Facts) -> str:
    """Return the question that these facts answer."""
    templates = read_sentences(f"{language}/questions")
    if facts.aspect == "extreme":
        return str(templates["extreme"]).format(most=name_way(language, str(facts.way)))
    if facts.aspect == "relation":
        assert facts.other is not None
        side, other = name_side(language, str(facts.way)), name_thing(language, *facts.other)
        return str(templates["relation"]).format(side=side, other=other)
    if facts.region is not None:
        return str(templates["region"]).format(place=name_region(language, facts.region))
    template = str(templates[facts.aspect])
    if facts.kind is None:
        return template
    name, one = name_thing(language, facts.kind, facts.color), name_one(language, facts.kind, facts.color)
    return template.format(name=name, one=one)
