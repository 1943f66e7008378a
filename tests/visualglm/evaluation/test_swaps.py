"""Swapped images have another accepted answer; a model that does not look is marked."""

from pathlib import Path

import pytest

from tests.visualglm.evaluation.helpers import answered
from visualglm.evaluation.answers import Answered
from visualglm.evaluation.bootstrap import clusters_of
from visualglm.evaluation.data import Choice, ImageFile, Question, draw_questions
from visualglm.evaluation.metrics import EXACT_MATCH, ObjectList, chair
from visualglm.evaluation.swaps import choose_swapped_images, compare_with_control


def question(key: str, image: str, text: str, *accepted: str, kind: str = "") -> Question:
    return Question(key, ImageFile(image, Path(image)), text, accepted, kind=kind, group=image)


def test_only_images_with_another_answer_are_used() -> None:
    questions = [
        question("1", "a", "Is there a dog?", "yes"),
        question("2", "b", "Is there a dog?", "yes"),
        question("3", "c", "Is there a dog?", "no"),
        question("4", "a", "Is there a cat?", "no"),
        question("5", "b", "Is there a cat?", "no"),
        question("6", "a", "What is it?", "a dog"),
        Question("7", None, "Is there a dog?", ("no",)),
    ]
    swapped = choose_swapped_images(questions)
    assert {key: image.name for key, image in swapped.images.items()} | {"3": ""} == {"1": "c", "2": "c", "3": ""}
    assert swapped.images["3"].name in ("a", "b")
    assert (swapped.count, swapped.same_question, swapped.total) == (3, 3, 6)


def test_other_questions_of_the_kind_can_lend_their_image() -> None:
    questions = [
        question("1", "a", "What is left?", "a dog", kind="what"),
        question("2", "b", "What is right?", "a cat", kind="what"),
        question("3", "c", "How many?", "2", kind="count"),
    ]
    assert choose_swapped_images(questions).count == 0
    swapped = choose_swapped_images(questions, same_question_only=False)
    assert {key: image.name for key, image in swapped.images.items()} == {"1": "b", "2": "a"}
    assert swapped.same_question == 0


def test_options_are_compared_by_text() -> None:
    def choice(key: str, image: str, letter: str, *texts: str) -> Question:
        choices = tuple(Choice(*pair) for pair in zip("AB", texts, strict=False))
        return Question(key, ImageFile(image, Path(image)), "Which?", (letter,), choices, group=image)

    same = [choice("1", "a", "A", "red", "blue"), choice("2", "b", "B", "blue", "red")]
    assert choose_swapped_images(same).count == 0
    assert choose_swapped_images([same[0], choice("2", "b", "A", "blue", "red")]).count == 2


def test_the_seed_fixes_the_choice() -> None:
    questions = list(draw_questions(12))
    first, again, other = (choose_swapped_images(questions, seed).images for seed in (0, 0, 1))
    assert first == again != other
    groups = {question.key: question.group for question in questions}
    assert all(groups[key] != image.name for key, image in first.items())


def answers(right: int, count: int = 60) -> list[Answered]:
    return [answered("yes" if number < right else "no", "yes", key=str(number)) for number in range(count)]


@pytest.mark.parametrize(
    ("own", "swapped", "is_blind"), [(50, 10, False), (40, 40, True), (30, 28, True), (10, 50, True)]
)
def test_a_model_that_does_not_look_is_marked(own: int, swapped: int, is_blind: bool) -> None:
    rows, others = answers(own), answers(swapped)
    statistics = [EXACT_MATCH.measure(part) for part in (rows, others)]
    result = compare_with_control(EXACT_MATCH, *statistics, clusters_of(rows))
    assert result.is_blind is is_blind
    assert result.pairs == 60


def test_a_low_share_of_absent_objects_is_good() -> None:
    metric = chair(ObjectList([["dog"], ["cat"]]))
    own = [answered("A dog.", "a dog", key=str(number)) for number in range(30)]
    swapped = [answered("A cat.", "a dog", key=str(number)) for number in range(30)]
    result = compare_with_control(metric, metric.measure(own), metric.measure(swapped), clusters_of(own))
    assert not result.is_blind
    assert compare_with_control(metric, metric.measure(swapped), metric.measure(own), clusters_of(own)).is_blind
