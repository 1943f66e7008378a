"""Questions about a scene with their answers, in Chinese and English.

    example = ask(scene, rng, "zh")          # .history, .question, .answer, .facts
    is_right(example, "红色的球在左上角。")

The background is never asked for nor named. An answer has one wording, so that a model can learn it exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tiny import answers, picture_questions
from tiny.everyday import everyday_texts
from tiny.grading import Example, Facts, is_right
from tiny.picture_questions import list_single, pick, vary
from tiny.scenes import COLOURS, KINDS, Scene, Thing, sample_scene
from tiny.smalltalk import EN_WORLD, WORLD, ZH_WORLD, topics_of
from tiny.vocabulary import Language

__all__ = ["QUESTION_KINDS", "Example", "Facts", "ask", "askable", "corpus", "is_right"]

Rng = np.random.Generator

QUESTION_KINDS = {  # kind -> how often it is asked about a picture
    "describe": 0.20,
    "objects": 0.12,
    "colour": 0.18,
    "where": 0.18,
    "count": 0.10,
    "exists": 0.10,
    "absent": 0.05,
    "follow_up": 0.08,
    "text": 0.02,
}
HISTORY_RATE = 0.25  # how often a question about a picture comes after others


def ask(scene: Scene | None, rng: Rng, language: Language, kind: str | None = None) -> Example:
    """One question and its answer.

    Args:
        scene: the picture; None for talk without one.
        rng: draws the question and its wording.
        language: "zh" or "en".
        kind: one of QUESTION_KINDS; None for any that fits.

    Raises:
        ValueError: for a kind that cannot be asked about this scene (see `askable`).
    """
    possible = askable(scene)
    if kind is None:
        kind = _draw_kind(possible, rng)
    if kind not in possible:
        raise ValueError(f"{kind!r} cannot be asked here; choose one of {', '.join(possible)}.")
    if kind == "text" or scene is None:
        return _ask_text(scene, rng, language)
    example = _asker(kind)(scene, rng, language)
    if rng.random() < HISTORY_RATE:
        most = 1 if example.history else 2
        example = replace(example, history=_earlier(scene, rng, language, most) + example.history)
    return example


def askable(scene: Scene | None) -> tuple[str, ...]:
    """The kinds of questions that have one right answer here."""
    if scene is None:
        return ("text",)
    return tuple(kind for kind in QUESTION_KINDS if kind != "colour" or list_single(scene))


def corpus(rng: Rng, count: int) -> Iterator[str]:
    """`count` texts for a tokenizer: everyday sentences, then questions and answers of both languages."""
    everyday = list(everyday_texts())
    yield from everyday[:count]
    texts: list[str] = []
    for _ in range(count - len(everyday)):
        if not texts:
            scene = None if rng.random() < 0.1 else sample_scene(rng, 5)
            example = ask(scene, rng, "en" if rng.random() < 0.5 else "zh")
            texts = [example.question, example.answer]
        yield texts.pop(0)


def _draw_kind(possible: tuple[str, ...], rng: Rng) -> str:
    ends = np.cumsum([QUESTION_KINDS[kind] for kind in possible])
    return possible[int(np.searchsorted(ends, rng.random() * ends[-1]))]


def _asker(kind: str) -> Callable[[Scene, Rng, Language], Example]:
    askers: dict[str, Callable[[Scene, Rng, Language], Example]] = {
        "describe": picture_questions.ask_describe,
        "objects": picture_questions.ask_objects,
        "colour": picture_questions.ask_colour,
        "where": picture_questions.ask_where,
        "count": picture_questions.ask_count,
        "exists": picture_questions.ask_exists,
        "absent": picture_questions.ask_absent,
        "follow_up": picture_questions.ask_follow_up,
    }
    return askers[kind]


def _earlier(scene: Scene, rng: Rng, language: Language, most: int) -> tuple[tuple[str, str], ...]:
    """One to `most` exchanges about the same picture."""
    kinds = [kind for kind in askable(scene) if kind not in ("text", "follow_up")]
    examples = [_asker(pick(rng, kinds))(scene, rng, language) for _ in range(rng.integers(1, most + 1))]
    return tuple((example.question, example.answer) for example in examples)


def _ask_text(scene: Scene | None, rng: Rng, language: Language) -> Example:
    """Small talk; without a picture also common sense, and questions that would need a picture."""
    chance = rng.random()
    if scene is None and chance < 0.35:
        return _ask_world(rng, language)
    topics = topics_of(language)
    if scene is None and chance < 0.65:
        question, topic = _ask_blind(rng, language), "no picture"
    else:
        topic = pick(rng, [name for name in topics if scene is None or name != "no picture"])
        question = vary(pick(rng, topics[topic].questions), rng, language)
    return Example("text", language, (), question, topics[topic].answer, Facts("topic", topic))


def _ask_blind(rng: Rng, language: Language) -> str:
    """A question about a picture that was never given."""
    kinds = ("describe", "objects", "describe", "objects", "colour", "where", "count", "exists")
    return _asker(pick(rng, kinds))(Scene("room", (_any_thing(rng),), 0), rng, language).question


def _any_thing(rng: Rng) -> Thing:
    return Thing(pick(rng, KINDS), pick(rng, COLOURS), "small", 0.5, 0.5)


def _ask_world(rng: Rng, language: Language) -> Example:
    zh, en, colour = pick(rng, WORLD)
    it = zh if language == "zh" else en
    question = pick(rng, ZH_WORLD if language == "zh" else EN_WORLD).format(it=it)
    answer = answers.say_usual_colour(language, it, colour)
    return Example("text", language, (), vary(question, rng, language), answer, Facts("colour", colour))
