"""Scenes and example questions for several tests."""

import numpy as np

from tiny.questions import QUESTION_KINDS, Example, askable_kinds, sample_example
from visualglm.scenes import Scene, Thing, sample_scene

LANGUAGES = ("zh", "en")
PICTURE_KINDS = tuple(kind for kind in QUESTION_KINDS if kind != "text")
FIELDS = ("name", "other", "one", "kinds", "any", "measure", "other_measure", "colour", "place", "side", "more", "most")
BACKGROUND_WORDS = {
    "zh": "天空|草地|草坪|海|沙漠|雪|夜|砖|墙|房间|室内|背景|地板",
    "en": r"\b(sky|grass|lawn|sea|ocean|desert|sand|snow|night|brick|wall|room|background|floor)\b",
}
PAIR = Scene(
    "snow",
    (Thing("ball", "red", "small", 0.2, 0.2), Thing("car", "blue", "large", 0.8, 0.5)),
    7,
)
THREE_BALLS = Scene(
    "room",
    tuple(Thing("ball", c, "small", x, 0.5) for c, x in (("red", 0.2), ("green", 0.5), ("black", 0.8))),
    7,
)
ALONE = Scene("night", (Thing("box", "orange", "small", 0.5, 0.8),), 7)


def examples(language: str, count: int, seed: int = 0, kind: str | None = None) -> list[tuple[Scene, Example]]:
    """Return `count` scenes with a question about each."""
    rng = np.random.default_rng(seed)
    drawn = []
    while len(drawn) < count:
        scene = sample_scene(rng, 5)
        if kind is None or kind in askable_kinds(scene):
            drawn.append((scene, sample_example(scene, rng, language, kind)))
    return drawn


def find(scene: Scene | None, language: str, kind: str, /, **facts: object) -> Example:
    """Return the first sampled example of that kind with these facts."""
    rng = np.random.default_rng(0)
    for _ in range(4000):
        example = sample_example(scene, rng, language, kind)
        if all(getattr(example.facts, name) == value for name, value in facts.items()):
            return example
    raise AssertionError(f"no {kind} example with {facts}")


def texts_of(example: Example) -> list[str]:
    """Return all texts of an example: history, question and answer."""
    return [*(text for exchange in example.history for text in exchange), example.question, example.answer]
