"""Answers to the questions of an evaluation, as plain rows.

    {"key": "1", "answer": "yes", "logprob": -0.1, "choice_logprobs": [-0.1, -2.3]}            (on one line)

Only "key" and "answer" are required. "logprob" is the log-probability of the whole answer, the sum over its tokens;
"choice_logprobs" has that of each option of a multiple-choice question, in order.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data.question import Question
from .data.records import read_records, shorten
from .errors import EvaluationError


@dataclass(frozen=True)
class AnswerRow:
    """A model's answer.

    Attributes:
        key: key of the question.
        answer: the text.
        logprob: log-probability of the whole answer; None if unknown.
        choice_logprobs: log-probability of each option of a multiple-choice question, in order; empty if unknown.
    """

    key: str
    answer: str
    logprob: float | None = None
    choice_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A question with its answer."""

    question: Question
    row: AnswerRow

    @property
    def text(self) -> str:
        """Return the answer."""
        return self.row.answer


def read_answers(path: Path) -> list[AnswerRow]:
    """Read answers from JSON lines.

    Raises:
        QuestionFileError: the file cannot be read, or a row is no answer.
    """
    rows = []
    for record in read_records(path):
        try:
            rows.append(to_answer(record.values))
        except EvaluationError as error:
            raise record.error(str(error)) from None
    return rows


def to_answer(values: Mapping[str, Any]) -> AnswerRow:
    """Return an answer from the fields of a row; other fields are ignored.

    Raises:
        EvaluationError: a field is missing or has another type.
    """
    key, answer = values.get("key"), values.get("answer")
    if not isinstance(key, (str, int)) or not isinstance(answer, str):
        raise EvaluationError(f'it has no "key" or no text "answer": {shorten(dict(values))}')
    logprob, choices = values.get("logprob"), values.get("choice_logprobs") or []
    numbers = [*([] if logprob is None else [logprob]), *(choices if isinstance(choices, (list, tuple)) else [choices])]
    if not all(isinstance(number, (int, float)) and not math.isnan(number) for number in numbers):
        raise EvaluationError(f"its log-probabilities are not numbers: {shorten(numbers)}")
    return AnswerRow(str(key), answer, None if logprob is None else float(logprob), tuple(map(float, choices)))


def match_answers(questions: Iterable[Question], rows: Iterable[AnswerRow]) -> list[Answered]:
    """Return each question with its answer, in the order of the questions.

    Raises:
        EvaluationError: a question has no answer or several ones, or an answer has no question.
    """
    answers: dict[str, AnswerRow] = {}
    for row in rows:
        if row.key in answers:
            raise EvaluationError(f"There are two answers with the key {row.key!r}. Keep one of them.")
        answers[row.key] = row
    answered, seen = [], set()
    for question in questions:
        if question.key in seen:
            raise EvaluationError(f"Two questions have the key {question.key!r}. Give each its own.")
        if question.key not in answers:
            raise EvaluationError(f"The question {question.key!r} has no answer. Answer all questions of the file.")
        seen.add(question.key)
        answered.append(Answered(question, answers[question.key]))
    if unknown := [key for key in answers if key not in seen]:
        raise EvaluationError(
            f"{len(unknown)} answers, such as {unknown[0]!r}, belong to no question. Give the file they were made from."
        )
    return answered
