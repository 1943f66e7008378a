"""The parts in which an answer is given while it is written."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .generation import Step
from .prompt import AnswerStream, Prompt, clean_answer


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens: the picture's vectors included.
        answer_tokens: tokens generated so far, without the end token.
        dropped_turns: oldest turns of the conversation that did not fit into the prompt.
        first_token_s, total_s: seconds from the question to the first token and to now.
    """

    prompt_tokens: int
    answer_tokens: int
    dropped_turns: int
    first_token_s: float
    total_s: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: what is new; text once given is never taken back.
        finish_reason: None until the last piece; then "stop" (the model ended) or "length" (a limit did).
        usage: on the last piece.
    """

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


def compose_answer(steps: Iterable[Step], tokenizer: Any, prompt: Prompt, started: float) -> Iterator[Piece]:
    """Turn the tokens of an answer into text that is never taken back.

    Args:
        steps: one for each token; the last has a finish reason.
        tokenizer: a ChatGLMTokenizer.
        prompt: what is answered.
        started: when the question was asked, by `time.perf_counter`.
    """
    decoder = tokenizer.stream()
    answer = AnswerStream(lambda raw: clean_answer(tokenizer.clean_up_spaces(raw)))
    count, first_s = 0, 0.0
    for step in steps:
        first_s = first_s or time.perf_counter() - started
        text = ""
        if step.token_id is not None:
            count += 1
            text = answer.push(decoder.push(step.token_id))
        if step.finish_reason is None:
            if text:
                yield Piece(text)
            continue
        text += answer.push(decoder.flush()) + answer.flush()
        total_s = time.perf_counter() - started
        yield Piece(
            text, step.finish_reason, Usage(len(prompt.token_ids), count, prompt.dropped_turns, first_s, total_s)
        )
