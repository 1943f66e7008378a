"""Questions about pictures that are drawn for the evaluation and were never trained on.

For each there is a second scene in which the right answer is another: a model that gives the same answer to both does
not look. Pairs of a color and a kind that no picture of the training holds are asked about under a name of their own.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from tiny.evaluation.results import ImageSource, Question
from tiny.grading import is_correct, score_things
from tiny.questions import QUESTION_KINDS, Example, askable_kinds, has_same_answer, sample_example
from tiny.scenes import HELD_OUT, Scene, render_scene, sample_scene
from tiny.words.sentences import LANGUAGES, Language, Rng

# Training counts its steps from 0 with the same generator: keep clear of them.
SEED_OFFSET = 2**40
IMAGE_SIZE = 448
NEW_PAIRS = "new pairs"
NEW_PAIR_KINDS = ("describe", "objects", "colour", "where", "exists", "follow_up")
DESCRIPTIONS = ("describe", "objects")
SAMPLED_TRIES, BUILT_TRIES = 100, 400


def generate_questions(seed: int, count: int, max_things: int = 5) -> Iterator[Question]:
    """Yield `count` questions, of every kind and both languages in turn, each about a scene of its own.

    Args:
        seed: of the pictures and questions; the same seed yields the same ones, whatever the count.
        count: how many.
        most_things: things in a picture, at most; 1 to 5.
    """
    rows = [(kind, language) for kind in (*QUESTION_KINDS, NEW_PAIRS) for language in LANGUAGES]
    for number in range(count):
        rng = np.random.default_rng([SEED_OFFSET, seed, number])
        kind, language = rows[number % len(rows)]
        scene, example = _sample_example(rng, kind, language, max_things)
        other = None if scene is None else find_swapped_scene(example, rng, max_things)
        yield _make_question(kind, scene, example, other)


def _sample_example(rng: Rng, kind: str, language: Language, max_things: int) -> tuple[Scene | None, Example]:
    if kind == NEW_PAIRS:
        return _sample_new_pair(rng, language, max_things)
    if kind == "text":
        return None, sample_example(None, rng, language, kind)
    while True:
        scene = sample_scene(rng, max_things)
        if kind in askable_kinds(scene):
            return scene, sample_example(scene, rng, language, kind)


def _sample_new_pair(rng: Rng, language: Language, max_things: int) -> tuple[Scene, Example]:
    """A question that names the held-out thing of its scene, or is answered by it."""
    kind = NEW_PAIR_KINDS[rng.integers(len(NEW_PAIR_KINDS))]
    while True:
        scene = sample_scene(rng, max_things, held_out=True)
        if kind not in askable_kinds(scene):
            continue
        example = sample_example(scene, rng, language, kind)
        if any((color, name) in HELD_OUT for color, name, _ in example.facts.things):
            return scene, example


def find_swapped_scene(example: Example, rng: Rng, max_things: int = 5) -> Scene | None:
    """Return a scene in which the right answer to `example` is another; None if none was found."""
    for attempt in range(SAMPLED_TRIES + BUILT_TRIES):
        other = sample_scene(rng, max_things)
        if attempt >= SAMPLED_TRIES:  # what chance does not bring: the thing that was asked for, put in
            first = other.things[0]
            facts = example.facts
            asked = replace(first, kind=facts.kind or first.kind, color=facts.color or first.color)
            other = replace(other, things=(asked, *other.things[1:]))
        if not has_same_answer(example, other):
            return other
    return None


def _make_question(kind: str, scene: Scene | None, example: Example, other: Scene | None) -> Question:
    return Question(
        kind,
        example.language,
        example.history,
        example.question,
        (example.answer,),
        partial(is_correct, example),
        None if scene is None else _to_image_source(scene),
        None if other is None else _to_image_source(other),
        partial(score_things, example) if kind in DESCRIPTIONS else None,
    )


def _to_image_source(scene: Scene) -> ImageSource:
    return ImageSource(json.loads(scene.to_json()), partial(render_scene, scene, IMAGE_SIZE))
