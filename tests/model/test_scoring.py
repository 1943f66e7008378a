"""Given answers are scored as a full forward pass scores them, and true answers are more likely than false ones."""

from typing import Any

import pytest
import torch

from model import (
    ENGLISH,
    AnswerScore,
    Conversation,
    GenerationConfig,
    QuestionError,
    SatChatModel,
    SettingError,
    Turn,
    score_batch,
)
from model.images.preprocess import load_image
from tests.helpers.api_server import SCENE
from tests.model.engine.test_logprobs import full_logprobs

ASKED = "What color is the star?"
COLORS = ["The star is red.", "The star is blue.", "The star is green."]


def about_the_scene(*turns: Turn) -> Conversation:
    return Conversation(load_image(SCENE), list(turns), ENGLISH)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_scores_are_those_of_a_full_pass(batch_size: int, tiny_model: SatChatModel) -> None:
    turns = [Turn("How many objects are there?", "There are three objects.")]
    conversations = [Conversation(None, language=ENGLISH), about_the_scene(), about_the_scene(*turns)]
    questions = [(one, ASKED, answer) for one in conversations for answer in COLORS]
    scores = tiny_model.score_answers(questions, batch_size)
    for (conversation, question, answer), score in zip(questions, scores, strict=True):
        assert isinstance(score, AnswerScore)
        _, request = tiny_model.make_request(conversation, question, GenerationConfig())
        ids = [token.token_id for token in score.tokens]
        assert ids == tiny_model.tokenizer.encode_text(answer)
        expected = full_logprobs(tiny_model.network, request, ids)[torch.arange(len(ids)), ids]
        assert [token.logprob for token in score.tokens] == pytest.approx(expected.tolist(), abs=1e-4)
        assert score.total == pytest.approx(float(expected.sum()), abs=1e-3)
        assert score.mean == pytest.approx(float(expected.mean()), abs=1e-4)
        assert b"".join(token.bytes for token in score.tokens).decode().strip() == answer


def test_the_true_answer_is_the_most_likely(tiny_model: SatChatModel) -> None:
    network, tokenizer = tiny_model.network, tiny_model.tokenizer
    scores = score_batch([str(SCENE)] * 3, network, tokenizer, ASKED, COLORS, english=True)
    totals = [score.total for score in scores if isinstance(score, AnswerScore)]
    assert totals.index(max(totals)) == 0 and totals[0] > -0.7


def test_errors_take_the_place_of_their_scores(tiny_model: SatChatModel) -> None:
    long = "star " * 3000
    network, tokenizer = tiny_model.network, tiny_model.tokenizer
    results = score_batch([None] * 4, network, tokenizer, [ASKED, "", ASKED, ASKED], ["", COLORS[0], long, COLORS[1]])
    kinds = [type(result) for result in results]
    assert [kinds[0], *kinds[2:]] == [QuestionError, QuestionError, AnswerScore]


@pytest.mark.parametrize(
    ("answers", "words"), [("The star", "list"), (["one"], "2 questions"), ([None, "two"], "answer")]
)
def test_bad_arguments_are_refused(answers: Any, words: str, tiny_model: SatChatModel) -> None:
    with pytest.raises((SettingError, QuestionError), match=words):
        score_batch([None, None], tiny_model.network, tiny_model.tokenizer, ASKED, answers)
