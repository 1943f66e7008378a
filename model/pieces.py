"""The parts in which an answer is given while it is written."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .engine import Step, Steps
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
        text: what is new, "" where no more is certain yet; text once given is never taken back.
        finish_reason: None until the last piece; then "stop" (the model ended) or "length" (a limit did).
        usage: on the last piece.
        so_far: on every piece, what the answer has taken up to here; for callers that end it early.
    """

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    so_far: Usage | None = None


class AnswerWriter:
    """Turns the tokens of one answer into text that is never taken back.

    Args:
        tokenizer: a ChatGLMTokenizer.
        prompt: what is answered.
        started: when the question was asked, by `time.perf_counter`.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, started: float) -> None:
        self.prompt = prompt
        self.started = started
        self.decoder = tokenizer.stream()
        self.answer = AnswerStream(lambda raw: clean_answer(tokenizer.clean_up_spaces(raw)))
        self.count = 0
        self.first_s = 0.0

    def write(self, *steps: Step) -> Piece:
        """Return what steps add."""
        self.first_s = self.first_s or time.perf_counter() - self.started
        token_ids = [step.token_id for step in steps if step.token_id is not None]
        self.count += len(token_ids)
        text = self.answer.push("".join(map(self.decoder.push, token_ids)))
        total_s = time.perf_counter() - self.started
        usage = Usage(len(self.prompt.token_ids), self.count, self.prompt.dropped_turns, self.first_s, total_s)
        finish_reason = steps[-1].finish_reason
        if finish_reason is None:
            return Piece(text, so_far=usage)
        text += self.answer.push(self.decoder.flush()) + self.answer.flush()
        return Piece(text, finish_reason, usage, usage)


class Answer(Iterator[Piece]):
    """An answer of a SatChatModel, written as it is read; a piece may have no text, if none is certain yet.

    Args:
        begin: asks the engine; is called when the first piece is wanted.
        pause_s: after a piece none comes for so many seconds, but for the last.
    """

    def __init__(self, begin: Callable[[], tuple[AnswerWriter, Steps]], pause_s: float) -> None:
        self.begin = begin
        self.pause_s = pause_s
        self.writer: AnswerWriter | None = None
        self.steps: Steps | None = None
        self.groups: Iterator[Sequence[Step]] = iter(())
        self.closed = False

    def __next__(self) -> Piece:
        """Wait for the next piece."""
        if self.steps is None and not self.closed:
            self.writer, self.steps = self.begin()
            self.groups = self.steps.together(self.pause_s)
            if self.closed:  # meanwhile
                self.steps.close()
        steps = next(self.groups)
        assert self.writer is not None  # there are steps
        return self.writer.write(*steps)

    def close(self) -> None:
        """Cancel the answer, from any thread; whoever waits for a piece waits no more."""
        self.closed = True
        if self.steps is not None:
            self.steps.close()
