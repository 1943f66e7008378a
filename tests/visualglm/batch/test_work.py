"""Tasks with a history, a language and choices are answered and scored as by the model itself."""

from typing import Any

import pytest

from model import ENGLISH, AnswerScore, Conversation, SatChatModel, Turn
from model.images.preprocess import load_image
from tests.helpers.api_server import SCENE
from visualglm.batch.tasks import Settings, Task
from visualglm.batch.work import Answerer

GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 12, "top_logprobs": 0}
QUESTION = "What color is the star?"
CHOICES = ["The star is blue.", "The star is red.", "green"]
HISTORY = (("How many objects are there?", "There are three objects."),)


@pytest.fixture(scope="module")
def answerer(tiny_model: SatChatModel) -> Answerer:
    return Answerer(Settings("visualglm-tiny", sampling=GREEDY), model=tiny_model)


def task(number: int, **more: Any) -> Task:
    return Task(str(number), number, str(SCENE), {1: QUESTION}, **more)


@pytest.mark.parametrize("history", [(), HISTORY])
def test_choices_are_scored_beside_the_answer(history: Any, answerer: Answerer, tiny_model: SatChatModel) -> None:
    tasks = [task(1, history=history, choices=CHOICES), task(2), task(3, choices=CHOICES[:1])]
    results = {result.task.number: result for result in answerer.answer(tasks)}
    assert [len(results[number].choice_logprobs) for number in (1, 2, 3)] == [3, 0, 1]
    conversation = Conversation(load_image(SCENE), [Turn(*turn) for turn in history], ENGLISH)
    assert results[1].choice_logprobs == pytest.approx(totals(tiny_model, conversation, *CHOICES), abs=1e-4)
    assert results[2].answer == "The star is red."
    plain = Conversation(conversation.image, language=ENGLISH)
    assert [results[2].logprob] == pytest.approx(totals(tiny_model, plain, results[2].answer), abs=1e-4)


def totals(model: SatChatModel, conversation: Conversation, *answers: str) -> list[float]:
    """Return the log-probability of each answer."""
    scores = model.score_answers([(conversation, QUESTION, answer) for answer in answers])
    return [score.total for score in scores if isinstance(score, AnswerScore)]


def test_an_error_of_a_choice_is_the_error_of_its_question(answerer: Answerer) -> None:
    bad, good = answerer.answer([task(1, choices=["red", ""]), task(2)])
    assert {bad.error != "", good.error != ""} == {True, False}


def test_the_language_of_a_task_comes_first(answerer: Answerer) -> None:
    results = {one.task.number: one for one in answerer.answer([task(1), task(2, language="zh")])}
    assert results[1].prompt_tokens != results[2].prompt_tokens or results[1].answer != results[2].answer
