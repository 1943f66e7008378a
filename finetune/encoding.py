"""A turn of a row -> the tokens to train on: the chat's own prompt, and the answer that should follow.

The context is read in both directions, so that an answer in it would see itself: every answer of a conversation is an
example of its own, with the turns before it as context, exactly as the chat asks for it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.errors import SettingError
from model.prompt import Language, Prompt, Tokenizer, Turn, encode_newest_turns, encode_turns

from .formats import Row

DEFAULT_MAX_LENGTH = 512  # tokens of prompt and answer, the picture's included
IGNORE_INDEX = -100  # the label that torch's cross_entropy ignores
MAX_TOKEN_CHARS = 80  # characters that a token stands for, at most: blanks in a row


@dataclass(frozen=True)
class Example:
    """One answer to learn.

    Attributes:
        input_ids: the prompt, which ends with [gMASK] <sop>, the answer, and <eop>.
        labels: like input_ids at the answer and <eop>, NO_LOSS before. They are not shifted: the logits at place i
            should predict labels[i + 1].
        image_start: index of the picture's first placeholder; None without a picture.
        image: the picture's file, a key for what is computed from it.
        context_length: tokens before <sop>, which are read in both directions.
        row: the number of the row, as a person counts.
        left_out: tokens of the row that did not fit; of a text that was cut before it was encoded, at least so many.
        pixels: [3, S, S], where the picture is decoded.
        skipped: numbers of rows before this one whose pictures are broken and which it stands for.
    """

    input_ids: list[int]
    labels: list[int]
    image_start: int | None
    image: Path | None
    context_length: int
    row: int
    num_truncated: int = 0
    pixels: torch.Tensor | None = None
    skipped: tuple[int, ...] = ()


class TurnEncoder:
    """Encodes turns so that prompt and answer fit into a length.

    What does not fit is left out: the oldest turns first, then the beginning of the question; the marks and the
    picture's places stay. An answer that takes more than half of the room for text may lose its end, with <eop>. Text
    that is so long that it cannot fit is left out before it is encoded, so that no text costs more than `max_length`.

    Args:
        tokenizer: of the model.
        image_length: vectors that stand for a picture.
        max_length: the most tokens of prompt and answer.

    Raises:
        SettingError: max_length leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, image_length: int, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.image_length = image_length
        self.max_length = max_length

    def encode(self, row: Row, turn: int) -> Example:
        """Encode the answer of one turn, to be said after the turns before it.

        Raises:
            SettingError: max_length leaves no room for text.
        """
        answer = self._encode_answer(row.turns[turn].answer)
        length = self.image_length if row.image else None
        turns = self._newest_turns(row.turns[: turn + 1])
        whole = self._prompt(turns[:-1], turns[-1].question, row.language_of(turn), length)
        prompt, kept = whole, answer
        if len(whole.token_ids) + len(answer) > self.max_length:
            prompt, kept = self._truncate(turns, answer, row.language_of(turn), length)
        num_truncated = len(whole.token_ids) - len(prompt.token_ids) + len(answer) - len(kept)
        ids = [*prompt.token_ids, *kept]
        labels = [IGNORE_INDEX] * len(prompt.token_ids) + kept
        return Example(ids, labels, prompt.image_start, row.image, len(prompt.token_ids) - 1, row.number, num_truncated)

    def _encode_answer(self, text: str) -> list[int]:
        """Return the ids of an answer with <eop>, or of as much of its beginning as may fit."""
        max_chars = self.max_length * MAX_TOKEN_CHARS
        ids: list[int] = self.tokenizer.encode_text(text[:max_chars])
        return ids if len(text) > max_chars else [*ids, self.tokenizer.eos_token_id]

    def _newest_turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """Return the newest turns that may fit, at least the last one, of whose question the end."""
        max_chars = self.max_length * MAX_TOKEN_CHARS
        last = turns[-1]
        newest, characters = [Turn(last.question[-max_chars:], "")], len(last.question)
        for earlier in reversed(turns[:-1]):
            characters += len(earlier.question) + len(earlier.answer)
            if characters > max_chars or len(newest) >= self.max_length:
                break
            newest.append(earlier)
        return newest[::-1]

    def _prompt(self, turns: Sequence[Turn], question: str, language: Language, length: int | None) -> Prompt:
        return encode_turns(self.tokenizer, turns, question, language, length)

    def _truncate(
        self, turns: Sequence[Turn], answer: list[int], language: Language, length: int | None
    ) -> tuple[Prompt, list[int]]:
        """Leave out what does not fit."""
        *earlier, last = turns
        budget = self.max_length - len(answer)
        alone = encode_newest_turns(self.tokenizer, earlier, last.question, language, length, budget)
        if len(alone.token_ids) <= budget:
            return alone, answer
        marks = len(self._prompt([], "", language, length).token_ids)
        budget = self.max_length - marks
        if budget < 2:
            raise SettingError(
                f"max_length={self.max_length} leaves no room for text: the picture's places and the marks alone "
                f"take {marks} tokens. Raise it."
            )
        kept = answer[: max(self.max_length - len(alone.token_ids), budget // 2)]
        return self._truncate_question(last.question, self.max_length - len(kept), language, length), kept

    def _truncate_question(self, question: str, max_chars: int, language: Language, length: int | None) -> Prompt:
        """Return the prompt with as much of the question's end as fits into `max_chars` tokens."""

        def prompt(cut: int) -> Prompt:
            return self._prompt([], question[cut:], language, length)

        cut = bisect_left(range(len(question)), True, key=lambda cut: len(prompt(cut).token_ids) <= max_chars)
        while len(prompt(cut).token_ids) > max_chars:  # the pieces of a text may be fewer than those of a part of it
            cut += 1
        return prompt(cut)
