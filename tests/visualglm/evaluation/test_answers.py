"""Answers are plain rows, and each question has exactly one."""

from pathlib import Path
from typing import Any

import pytest

from visualglm.evaluation.answers import AnswerRow, match_answers, read_answers
from visualglm.evaluation.data import Question
from visualglm.evaluation.errors import EvaluationError, QuestionFileError

QUESTIONS = [Question("1", None, "What?", ("a",)), Question("2", None, "Where?", ("b",))]


def test_answers_are_read_and_put_into_the_order_of_the_questions(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": 2, "answer": "b", "logprob": -0.5, "more": 1}\n{"key": "1", "answer": ""}\n')
    first, second = match_answers(QUESTIONS, read_answers(path))
    assert (first.text, second.text, second.row.logprob) == ("", "b", -0.5)


@pytest.mark.parametrize(
    "row",
    ['{"answer": "a"}', '{"key": "1"}', '{"key": "1", "answer": 2}', '{"key": "1", "answer": "a", "logprob": "x"}'],
)
def test_rows_that_are_no_answers_are_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(QuestionFileError, match="row 1"):
        read_answers(path)


@pytest.mark.parametrize("keys", [["1"], ["1", "2", "3"], ["1", "2", "2"]])
def test_answers_that_do_not_match_the_questions_are_refused(keys: list[Any]) -> None:
    with pytest.raises(EvaluationError):
        match_answers(QUESTIONS, [AnswerRow(key, "a") for key in keys])


def test_questions_with_one_key_are_refused() -> None:
    with pytest.raises(EvaluationError, match="key"):
        match_answers([QUESTIONS[0], QUESTIONS[0]], [AnswerRow("1", "a")])
