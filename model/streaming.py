"""Parts of a streamed answer: chunks with their usage, incremental detokenization, and complete answers."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .aliases import FormerAttribute
from .engine import TokenOutput
from .prompt import Prompt, StableTextStream, Tokenizer, clean_answer


@dataclass(frozen=True)
class Usage:
    """Token counts and times of one answer.

    Attributes:
        prompt_tokens: tokens of the prompt, including the image embeddings.
        answer_tokens: tokens generated so far, without the end token.
        dropped_turns: number of oldest turns dropped because the prompt was too long.
        first_token_s, total_s: seconds from the question to the first token and to this chunk.
    """

    prompt_tokens: int
    answer_tokens: int
    dropped_turns: int
    first_token_s: float
    total_s: float


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log-probability, see `engine.logprobs.TokenLogprobs`.

    Attributes:
        bytes: UTF-8 bytes of the token; it may be part of a character.
        logprob: natural logarithm of its probability.
        top: the most likely tokens at its position, the most likely first; as many as were asked for.
    """

    token_id: int
    bytes: bytes
    logprob: float
    top: tuple["ScoredToken", ...] = ()

    @property
    def text(self) -> str:
        """The token's text; an incomplete character becomes U+FFFD."""
        return self.bytes.decode("utf-8", "replace")


@dataclass(frozen=True, init=False)
class StreamChunk:
    """The next part of a streamed answer.

    Attributes:
        text: newly finalized text, "" if none yet. Emitted text is never revised.
        finish_reason: None until the last chunk; then "stop" (end token) or "length" (length limit).
        usage: token counts and times up to this chunk; the models of this package always set it.
        logprobs: the tokens since the last chunk, if `top_logprobs` of the settings asks for them. The end token is not
            included, and spaces that the text's clean-up removes are.
    """

    text: str
    finish_reason: str | None
    usage: Usage | None
    logprobs: tuple[ScoredToken, ...]
    so_far = FormerAttribute("usage")

    def __init__(
        self,
        text: str,
        finish_reason: str | None = None,
        usage: Usage | None = None,
        so_far: Usage | None = None,
        *,
        logprobs: tuple[ScoredToken, ...] = (),
    ) -> None:
        if so_far is not None:
            warnings.warn("StreamChunk(): so_far= is included in usage=.", DeprecationWarning, stacklevel=2)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "finish_reason", finish_reason)
        object.__setattr__(self, "usage", so_far if usage is None else usage)
        object.__setattr__(self, "logprobs", logprobs)


@dataclass(frozen=True)
class CompleteAnswer:
    """An answer from its first to its last token.

    Attributes:
        text: the answer.
        finish_reason: "stop" (end token) or "length" (length limit).
        usage: token counts and times.
        logprobs: its tokens, as in `StreamChunk`.
    """

    text: str
    finish_reason: str
    usage: Usage
    logprobs: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class AnswerPhase:
    """The current work on an answer.

    Attributes:
        name: "image" (encoding it), "waiting" (in the queue), "prompt" (prefill) or "text" (generating tokens).
        requests_ahead: number of queued requests before a waiting one.
    """

    name: Literal["image", "waiting", "prompt", "text"]
    requests_ahead: int = 0


class IncrementalDetokenizer:
    """Converts the tokens of one answer to text, incrementally; emitted text is never revised.

    Args:
        tokenizer: decodes the tokens.
        prompt: the prompt, for the counts in `Usage`.
        started: time of the question, from `time.perf_counter`.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, started: float) -> None:
        self.prompt = prompt
        self.started = started
        self.decoder = tokenizer.stream()
        self.answer = StableTextStream(lambda raw: clean_answer(tokenizer.clean_up_spaces(raw)))
        self.answer_tokens = 0
        self.first_token_s: float | None = None

    def update(self, *outputs: TokenOutput) -> StreamChunk:
        """Return the chunk for newly generated tokens; the last output may carry the finish reason."""
        total_s = time.perf_counter() - self.started
        self.first_token_s = total_s if self.first_token_s is None else self.first_token_s
        token_ids = [output.token_id for output in outputs if output.token_id is not None]
        self.answer_tokens += len(token_ids)
        text = self.answer.push("".join(map(self.decoder.push, token_ids)))
        usage = Usage(
            len(self.prompt.token_ids), self.answer_tokens, self.prompt.dropped_turns, self.first_token_s, total_s
        )
        finish_reason = outputs[-1].finish_reason
        if finish_reason is not None:
            text += self.answer.push(self.decoder.flush()) + self.answer.flush()
        return StreamChunk(text, finish_reason, usage, logprobs=self._score(outputs))

    def _score(self, outputs: Sequence[TokenOutput]) -> tuple[ScoredToken, ...]:
        """Return the tokens of the outputs that have log-probabilities."""
        to_bytes = self.decoder.token_bytes
        scored = []
        for output in outputs:
            if output.token_id is not None and output.logprobs is not None:
                top = (ScoredToken(id, to_bytes(id), logprob) for id, logprob in output.logprobs.top)
                token = output.token_id, to_bytes(output.token_id), output.logprobs.logprob
                scored.append(ScoredToken(*token, tuple(top)))
        return tuple(scored)


class AnswerCollector:
    """Collects the tokens of one answer and decodes them together, which costs less than one at a time.

    Args:
        detokenizer: of this answer.
    """

    def __init__(self, detokenizer: IncrementalDetokenizer) -> None:
        self.detokenizer = detokenizer
        self._text = ""
        self._logprobs: tuple[ScoredToken, ...] = ()
        self._outputs: list[TokenOutput] = []

    def add(self, output: TokenOutput) -> CompleteAnswer | None:
        """Add a token; return the answer if this was its last output."""
        self._outputs.append(output)
        is_first = self.detokenizer.first_token_s is None
        if output.finish_reason is None and not is_first:
            return None
        chunk = self.detokenizer.update(*self._outputs)
        self._text += chunk.text
        self._logprobs += chunk.logprobs
        self._outputs.clear()
        if chunk.finish_reason is None or chunk.usage is None:
            return None
        return CompleteAnswer(self._text, chunk.finish_reason, chunk.usage, self._logprobs)
