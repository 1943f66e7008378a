"""Generated questions cover every kind, are reproducible, and have another answer for the swapped image."""

from itertools import islice
from typing import Any

import numpy as np
import pytest

from tiny.evaluation.generated_dataset import (
    DESCRIPTIONS,
    NEW_PAIRS,
    SEED_OFFSET,
    RenderedScene,
    find_swapped_scene,
    generate_questions,
)
from tiny.evaluation.graded_question import GradedQuestion
from tiny.questions import QUESTION_KINDS, askable_kinds, has_same_answer, sample_example
from visualglm.evaluation.data import ImageReference
from visualglm.scenes import HELD_OUT, Scene, sample_scene

KINDS = (*QUESTION_KINDS, NEW_PAIRS)
ROUND = 2 * len(KINDS)


@pytest.fixture(scope="module")
def questions() -> list[GradedQuestion]:
    return list(generate_questions(7, 10 * ROUND))


def scene_of(image: ImageReference | None) -> Scene:
    assert isinstance(image, RenderedScene)
    return image.scene


def pairs_in(question: GradedQuestion) -> list[tuple[str, str]]:
    return [(thing.color, thing.kind) for thing in scene_of(question.image).things]


def content(question: GradedQuestion) -> tuple[Any, ...]:
    sources = [image and scene_of(image) for image in (question.image, question.swapped_image)]
    return question.kind, question.language, question.history, question.text, question.answers, sources


def test_kinds_and_languages_alternate(questions: list[GradedQuestion]) -> None:
    expected = [(kind, language) for kind in KINDS for language in ("zh", "en")]
    assert [(question.kind, question.language) for question in questions] == 10 * expected


def test_questions_depend_on_the_seed_and_not_on_the_count(questions: list[GradedQuestion]) -> None:
    again = [content(question) for question in generate_questions(7, ROUND)]
    assert again == [content(question) for question in questions[:ROUND]]
    assert again != [content(question) for question in generate_questions(8, ROUND)]
    scenes = [scene_of(question.image).seed for question in questions if question.image]
    assert len(set(scenes)) == len(scenes)
    assert np.random.default_rng([SEED_OFFSET, 7, 0]).random() != np.random.default_rng([7, 0]).random()


def test_the_expected_answer_is_correct(questions: list[GradedQuestion]) -> None:
    for question in questions:
        assert question.is_correct(question.answers[0])
        assert not question.is_correct("?")
        assert (question.image is None) == (question.kind == "text")
        assert (question.score_things is not None) == (question.kind in DESCRIPTIONS)
    image = questions[0].image
    assert image is not None
    assert image.load().size == (448, 448)


def test_new_pairs_occur_only_in_their_kind(questions: list[GradedQuestion]) -> None:
    for question in questions:
        if question.image:
            new = [pair for pair in pairs_in(question) if pair in HELD_OUT]
            assert len(new) == (question.kind == NEW_PAIRS)


def test_every_image_has_a_swapped_image(questions: list[GradedQuestion]) -> None:
    for question in questions:
        assert (question.swapped_image is None) == (question.kind == "text")


@pytest.mark.parametrize("kind", [kind for kind in QUESTION_KINDS if kind != "text"])
def test_the_correct_answer_differs_for_the_swapped_scene(kind: str) -> None:
    rng = np.random.default_rng(3)
    scenes = (scene for _ in range(1000) if kind in askable_kinds(scene := sample_scene(rng, 5)))
    for scene in islice(scenes, 40):
        example = sample_example(scene, rng, "en", kind)
        other = find_swapped_scene(example, rng)
        assert has_same_answer(example, scene)
        assert other is not None
        assert not has_same_answer(example, other)


def test_the_number_of_things_is_limited() -> None:
    for question in generate_questions(7, ROUND, max_things=2):
        if question.image:
            assert len(pairs_in(question)) <= 2
