"""Encode a turn of a row as token ids and labels: the chat's prompt, and the answer.

ChatGLM attends to the context bidirectionally, so an answer in the context would see its own tokens. Therefore every
answer of a conversation is an example of its own, with the turns before it as context.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.errors import SettingError
from model.prompt import Language, Prompt, Tokenizer, Turn, encode_newest_turns, encode_turns

from .formats import Row

DEFAULT_MAX_LENGTH = 512  # tokens of prompt and answer, image embeddings included
IGNORE_INDEX = -100  # label without a loss: torch's default `ignore_index`
MAX_TOKEN_CHARS = 80  # maximum number of characters of a token: a run of blanks


@dataclass(frozen=True)
class Example:
    """An answer to train on, with its prompt.

    Attributes:
        input_ids: the prompt, which ends with [gMASK] <sop>, the answer, and <eop>.
        labels: the token ids of the answer and <eop> at their positions, IGNORE_INDEX before. They are not shifted:
            the logits at position i should predict labels[i + 1].
        image_start: position of the image's first placeholder; None without an image.
        image: the image file, which is also the key of its cached embedding; None without an image.
        context_length: number of tokens before <sop>, which are attended to bidirectionally.
        row: number of the row, counted from 1.
        num_truncated: number of tokens of the row that did not fit; a lower bound if a text was truncated before it
            was encoded.
        pixels: pixels [3, S, S] of the image; None if it is not decoded.
        skipped: numbers of the preceding rows with broken images that this example replaces.
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
    """Encodes turns, truncated to a maximum number of tokens of prompt and answer.

    First the oldest turns are dropped, then the beginning of the question; the prefixes of question and answer and the
    image placeholders are kept. If the answer takes more than half of the tokens available for text, it may lose its
    end, with <eop>. Texts are truncated before they are encoded, so that encoding takes a time limited by `max_length`.

    Args:
        tokenizer: the model's tokenizer.
        image_length: number of image embeddings per image.
        max_length: maximum number of tokens of prompt and answer.

    Raises:
        SettingError: max_length leaves no tokens for text.
    """

    def __init__(self, tokenizer: Tokenizer, image_length: int, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.image_length = image_length
        self.max_length = max_length

    def encode(self, row: Row, turn: int) -> Example:
        """Encode the answer of one turn, with its question and the turns before it as context.

        Raises:
            SettingError: max_length leaves no tokens for text.
        """
        answer = self._encode_answer(row.turns[turn].answer)
        length = self.image_length if row.image else None
        turns = self._newest_turns(row.turns[: turn + 1])
        complete = self._prompt(turns[:-1], turns[-1].question, row.language_of(turn), length)
        prompt, kept = complete, answer
        if len(complete.token_ids) + len(answer) > self.max_length:
            prompt, kept = self._truncate(turns, answer, row.language_of(turn), length)
        num_truncated = len(complete.token_ids) - len(prompt.token_ids) + len(answer) - len(kept)
        ids = [*prompt.token_ids, *kept]
        labels = [IGNORE_INDEX] * len(prompt.token_ids) + kept
        return Example(ids, labels, prompt.image_start, row.image, len(prompt.token_ids) - 1, row.number, num_truncated)

    def _encode_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer with <eop>; if the text cannot fit, only of its beginning."""
        max_chars = self.max_length * MAX_TOKEN_CHARS
        ids: list[int] = self.tokenizer.encode_text(text[:max_chars])
        return ids if len(text) > max_chars else [*ids, self.tokenizer.eos_token_id]

    def _newest_turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """Return the newest turns that may fit, oldest first; at least the last one, its question truncated."""
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
        """Return the truncated prompt, and the token ids of the answer, which may be truncated, too."""
        *earlier, last = turns
        budget = self.max_length - len(answer)
        alone = encode_newest_turns(self.tokenizer, earlier, last.question, language, length, budget)
        if len(alone.token_ids) <= budget:
            return alone, answer
        template_tokens = len(self._prompt([], "", language, length).token_ids)
        budget = self.max_length - template_tokens
        if budget < 2:
            raise SettingError(
                f"max_length={self.max_length} leaves no tokens for text: the image placeholders and the prompt "
                f"template take {template_tokens} tokens. Raise it."
            )
        kept = answer[: max(self.max_length - len(alone.token_ids), budget // 2)]
        return self._truncate_question(last.question, self.max_length - len(kept), language, length), kept

    def _truncate_question(self, question: str, max_tokens: int, language: Language, length: int | None) -> Prompt:
        """Return the prompt with the longest end of the question that fits into `max_tokens` tokens."""

        def prompt(cut: int) -> Prompt:
            return self._prompt([], question[cut:], language, length)

        cut = bisect_left(range(len(question)), True, key=lambda cut: len(prompt(cut).token_ids) <= max_tokens)
        while len(prompt(cut).token_ids) > max_tokens:  # bisection is inexact: a shorter text may have more tokens
            cut += 1
        return prompt(cut)
