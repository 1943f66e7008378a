"""Samples one question about a scene, or small talk without one, by its kind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tiny.questions import choices
from tiny.questions.follow_ups import ask_follow_up
from tiny.questions.image_questions import (
    ask_absent,
    ask_color,
    ask_count,
    ask_describe,
    ask_exists,
    ask_larger,
    ask_objects,
    ask_relation,
    ask_where,
    describe_as,
)
from tiny.words.phrasing import vary_style
from tiny.words.sentences import Language, Rng, everyday_texts, expand, pick, read_sentences, topics_of
from visualglm.scenes import BACKGROUNDS, COLORS, HELD_OUT, KINDS, Scene, Thing, sample_scene
from visualglm.scenes.answers import word_usual_color
from visualglm.scenes.facts import Example, Facts

Asker = Callable[[Scene, Rng, Language], Example]

QUESTION_KINDS = {  # kind -> sampling weight
    "describe": 0.16,
    "objects": 0.10,
    "colour": 0.11,
    "count": 0.11,
    "where": 0.13,
    "larger": 0.07,
    "relation": 0.10,
    "exists": 0.07,
    "absent": 0.06,
    "follow_up": 0.08,
    "text": 0.01,
}
ASKERS: dict[str, Asker] = {
    "describe": ask_describe,
    "objects": ask_objects,
    "colour": ask_color,
    "count": ask_count,
    "where": ask_where,
    "larger": ask_larger,
    "relation": ask_relation,
    "exists": ask_exists,
    "absent": ask_absent,
    "follow_up": ask_follow_up,
}
HISTORY_RATE = 0.25  # share of questions with earlier turns
HISTORY_LENGTHS = (1, 1, 1, 2, 2, 3, 4)  # numbers of earlier turns, to sample from
PAIRS = [(color, kind) for color in COLORS for kind in KINDS if (color, kind) not in HELD_OUT]


def sample_example(scene: Scene | None, rng: Rng, language: Language, kind: str | None = None) -> Example:
    """Sample one question with its answer.

    Args:
        scene: the scene; None for a conversation without an image.
        rng: samples the question and its wording.
        language: "zh" or "en".
        kind: one of QUESTION_KINDS; None for a random kind that the scene allows.

    Raises:
        ValueError: the scene does not allow this kind (see `askable_kinds`).
    """
    possible = askable_kinds(scene)
    if kind is None:
        kind = _sample_kind(possible, rng)
    if kind not in possible:
        raise ValueError(f"{kind!r} cannot be asked about this scene; choose one of {', '.join(possible)}.")
    if scene is None:
        return _prepend_talk(_ask_text(None, rng, language), rng)
    example = _ask_text(scene, rng, language) if kind == "text" else ASKERS[kind](scene, rng, language)
    if rng.random() < HISTORY_RATE:
        count = pick(rng, HISTORY_LENGTHS[:-1] if example.history else HISTORY_LENGTHS)  # a follow-up has one turn
        example = replace(example, history=_sample_history(scene, rng, language, count) + example.history)
    return example


def askable_kinds(scene: Scene | None) -> tuple[str, ...]:
    """Return the question kinds that have one correct answer for this scene."""
    if scene is None:
        return ("text",)
    needs: dict[str, Callable[[Scene], Sequence[object]]] = {
        "colour": choices.list_unique,
        "larger": choices.list_size_pairs,
        "relation": choices.list_references,
    }
    return tuple(kind for kind in QUESTION_KINDS if kind not in needs or needs[kind](scene))


def tokenizer_corpus(rng: Rng, count: int) -> Iterator[str]:
    """Yield `count` texts to train a tokenizer on: everyday sentences, then questions and answers."""
    everyday = list(everyday_texts())
    yield from everyday[:count]
    texts: list[str] = []
    for _ in range(count - len(everyday)):
        if not texts:
            scene = None if rng.random() < 0.1 else sample_scene(rng, 5)
            example = sample_example(scene, rng, "en" if rng.random() < 0.5 else "zh")
            texts = [example.question, example.answer]
        yield texts.pop(0)


def _sample_kind(possible: tuple[str, ...], rng: Rng) -> str:
    rest = rng.random() * sum(QUESTION_KINDS[kind] for kind in possible)
    for kind in possible:
        rest -= QUESTION_KINDS[kind]
        if rest < 0:
            return kind
    return possible[-1]


def _sample_history(scene: Scene, rng: Rng, language: Language, count: int) -> tuple[tuple[str, str], ...]:
    """Sample earlier turns about the same scene; descriptions among them are short."""
    kinds = [kind for kind in askable_kinds(scene) if kind not in ("text", "follow_up")]
    turns = []
    for _ in range(count):
        kind = pick(rng, kinds)
        if kind == "describe":
            example = describe_as("describe_short", scene, rng, language)
        else:
            example = ASKERS[kind](scene, rng, language)
        turns.append((example.question, example.answer))
    return tuple(turns)


def _prepend_talk(example: Example, rng: Rng) -> Example:
    """Prepend a turn of small talk to some examples without an image."""
    if rng.random() >= HISTORY_RATE:
        return example
    before = _ask_text(None, rng, example.language)
    return replace(example, history=((before.question, before.answer),))


def _ask_text(scene: Scene | None, rng: Rng, language: Language) -> Example:
    """Sample small talk; without a scene also common knowledge, and questions that would need an image."""
    chance = rng.random()
    if scene is None and chance < 0.25:
        return _ask_usual_color(rng, language)
    topics = topics_of(language)
    if scene is None and chance < 0.6:
        question, topic = _ask_about_no_image(rng, language), "no picture"
    else:
        topic = pick(rng, [name for name in topics if scene is None or name != "no picture"])
        question = vary_style(expand(rng, language, pick(rng, topics[topic].questions)), rng, language, polite=False)
    return Example("text", language, (), question, topics[topic].answer, Facts("topic", topic))


def _ask_usual_color(rng: Rng, language: Language) -> Example:
    """Ask for the usual color of a common thing."""
    world = read_sentences("world")
    zh, en, color = pick(rng, world["things"])
    it = zh if language == "zh" else en
    question = expand(rng, language, pick(rng, world["questions"][language]), {"it": it})
    facts = Facts("colour", color)
    return Example(
        "text", language, (), vary_style(question, rng, language), word_usual_color(language, it, color), facts
    )


def _ask_about_no_image(rng: Rng, language: Language) -> str:
    """Return a question about an image that was not given."""
    (color, kind), (other_color, other_kind) = (pick(rng, PAIRS) for _ in range(2))
    if kind == other_kind:
        return _ask_about_no_image(rng, language)
    things = (
        Thing(kind, color, "small", 0.2, 0.2),
        Thing(other_kind, other_color, "large", 0.8, 0.7),
    )
    scene = Scene(BACKGROUNDS[0], things, 0)
    kind = pick(rng, [kind for kind in ("describe", "objects", *askable_kinds(scene)) if kind != "text"])
    return ASKERS[kind](scene, rng, language).question
