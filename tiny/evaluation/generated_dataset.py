"""Evaluation questions about rendered scenes that are disjoint from the training scenes.

Each question has a second scene in which the correct answer differs: a model that answers both the same way does not
use the image. Pairs of a color and a kind that are held out from training form a question kind of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from tiny.evaluation.graded_question import GradedQuestion
from tiny.grading import is_correct, score_things
from tiny.questions import QUESTION_KINDS, Example, askable_kinds, has_same_answer, sample_example
from tiny.words.sentences import LANGUAGES, Language, Rng
from visualglm.evaluation.data import ImageReference
from visualglm.scenes import HELD_OUT, Scene, render_scene, sample_scene

# Training seeds the same generator with step numbers from 0; the offset keeps the seeds disjoint.
SEED_OFFSET = 2**40
IMAGE_SIZE = 448
NEW_PAIRS = "new pairs"
NEW_PAIR_KINDS = ("describe", "objects", "colour", "where", "exists", "follow_up")
DESCRIPTIONS = ("describe", "objects")
SAMPLED_TRIES, BUILT_TRIES = 100, 400


@dataclass(frozen=True)
class RenderedScene(ImageReference):
    """The image of a scene, which is rendered when it is needed."""

    scene: Scene

    def source(self) -> Image.Image:
        return render_scene(self.scene, IMAGE_SIZE)


def generate_questions(seed: int, count: int, max_things: int = 5) -> Iterator[GradedQuestion]:
    """Yield `count` questions, cycling through all kinds and both languages, each about its own scene.

    Args:
        seed: seed of scenes and questions; the first questions of a seed do not depend on `count`.
        count: number of questions.
        max_things: maximum number of things in a scene, 1 to 5.
    """
    rows = [(kind, language) for kind in (*QUESTION_KINDS, NEW_PAIRS) for language in LANGUAGES]
    for number in range(count):
        rng = np.random.default_rng([SEED_OFFSET, seed, number])
        kind, language = rows[number % len(rows)]
        scene, example = _sample_example(rng, kind, language, max_things)
        other = None if scene is None else find_swapped_scene(example, rng, max_things)
        yield _make_question(number, kind, scene, example, other)


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
    """Sample a question that names the held-out pair of its scene, or whose answer names it."""
    kind = NEW_PAIR_KINDS[rng.integers(len(NEW_PAIR_KINDS))]
    while True:
        scene = sample_scene(rng, max_things, held_out=True)
        if kind not in askable_kinds(scene):
            continue
        example = sample_example(scene, rng, language, kind)
        if any((color, name) in HELD_OUT for color, name, _ in example.facts.things):
            return scene, example


def find_swapped_scene(example: Example, rng: Rng, max_things: int = 5) -> Scene | None:
    """Return a scene in which the correct answer to `example` differs; None if the search fails."""
    for attempt in range(SAMPLED_TRIES + BUILT_TRIES):
        other = sample_scene(rng, max_things)
        if attempt >= SAMPLED_TRIES:  # sampling has failed: put in a thing that matches the question
            first = other.things[0]
            facts = example.facts
            matching = replace(first, kind=facts.kind or first.kind, color=facts.color or first.color)
            other = replace(other, things=(matching, *other.things[1:]))
        if not has_same_answer(example, other):
            return other
    return None


def _make_question(
    number: int, kind: str, scene: Scene | None, example: Example, other: Scene | None
) -> GradedQuestion:
    image = None if scene is None else RenderedScene(f"scene {number}", scene)
    return GradedQuestion(
        str(number),
        image,
        example.question,
        (example.answer,),
        kind=kind,
        group="" if image is None else image.name,
        history=example.history,
        language=example.language,
        is_correct=partial(is_correct, example),
        swapped_image=None if other is None else RenderedScene(f"other scene {number}", other),
        score_things=partial(score_things, example) if kind in DESCRIPTIONS else None,
    )
