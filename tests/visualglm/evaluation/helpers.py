"""Questions with answers, made by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visualglm.evaluation.answers import Answered, AnswerRow
from visualglm.evaluation.data import Choice, Question

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str) -> dict[str, Any]:
    """Return numbers that official programs computed; "how" says in which way."""
    content: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    assert content["how"]
    return content


def answered(
    answer: str,
    *accepted: str,
    key: str = "1",
    group: str = "",
    kind: str = "",
    choices: Sequence[Choice] = (),
    logprob: float | None = None,
    choice_logprobs: Sequence[float] = (),
) -> Answered:
    question = Question(key, None, "What?", accepted, tuple(choices), kind, group)
    return Answered(question, AnswerRow(key, answer, logprob, tuple(choice_logprobs)))
