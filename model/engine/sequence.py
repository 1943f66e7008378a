"""Requests to the engine, their outputs, and the queue that carries outputs from the scheduler thread to the caller."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from ..aliases import FormerAttribute
from ..errors import GenerationError
from .config import GenerationConfig, IdRange
from .logprobs import TokenLogprobs


@dataclass(frozen=True)
class TokenOutput:
    """One generated token.

    Attributes:
        token_id: the token; None in a final output without a token (the end token is not part of the answer).
        finish_reason: None while the sequence is running, "stop" at the end token, "length" at a length limit.
        logprobs: of the token, if the request's `top_logprobs` asks for them.
    """

    token_id: int | None
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt with its sampling parameters.

    Attributes:
        token_ids: the prompt, which ends with [gMASK] <sop>.
        config: the sampling parameters and length limits.
        forbidden: ranges of token ids, half-open, that are never sampled.
        images: image embeddings [1, L, D], which replace the embeddings of the tokens from `image_start` on.
        image_start: index of the first image token.
        penalize_prompt: whether the repetition penalty also applies to the prompt's tokens.
        forced_ids: tokens that the answer has to consist of, for their log-probabilities; empty to sample tokens.
    """

    token_ids: Sequence[int]
    config: GenerationConfig
    forbidden: Sequence[IdRange] = ()
    images: torch.Tensor | None = None
    image_start: int = 0
    penalize_prompt: bool = False
    forced_ids: Sequence[int] = ()

    def max_new_tokens(self, capacity: int) -> int:
        """Return the maximum number of tokens to generate, at least 0.

        Args:
            capacity: the maximum number of tokens of a prompt and its answer.
        """
        config = self.config
        available = min(config.max_length, capacity) - len(self.token_ids)
        limit = len(self.forced_ids) or config.max_new_tokens
        return max(0, available if limit is None else min(available, limit))

    def max_total_tokens(self, capacity: int) -> int:
        """Return the maximum number of tokens of the prompt and its answer, see `max_new_tokens`."""
        return len(self.token_ids) + self.max_new_tokens(capacity)


RequestOutput = tuple[Request, TokenOutput | GenerationError]


@dataclass(eq=False)
class RunningSequence:
    """A sequence in the batch.

    Attributes:
        max_new_tokens: maximum number of tokens to generate.
        num_sampled: tokens sampled so far; the last one may not have been copied from the device yet.
        num_collected: tokens copied from the device so far.
        finished: whether the sequence has left the batch.
    """

    request: Request
    max_new_tokens: int
    num_sampled: int = 0
    num_collected: int = 0
    finished: bool = False

    @property
    def length(self) -> int:
        """Number of tokens in the KV cache after the next decode step."""
        return len(self.request.token_ids) + self.num_sampled


QueuedOutput = TokenOutput | BaseException | None  # None: the request was cancelled
# Outputs are paired with their request, not with their handle: a handle owns its queue, and unread outputs that refer
# to the handle would form a reference cycle, which only the garbage collector frees.
OutputQueue: TypeAlias = "queue.SimpleQueue[tuple[Request, QueuedOutput]]"


@dataclass(eq=False)
class RequestHandle:
    """A submitted request and its output queue.

    Attributes:
        cancelled: set by the caller; the scheduler then drops the request.
        finished: set after the final output, or when the request is cancelled.
    """

    request: Request
    outputs: OutputQueue
    cancelled: bool = False
    finished: threading.Event = field(default_factory=threading.Event)

    def put(self, output: QueuedOutput) -> None:
        """Append an output to the queue."""
        self.outputs.put((self.request, output))
        if not isinstance(output, TokenOutput) or output.finish_reason is not None:
            self.finished.set()


class TokenStream(Iterator[TokenOutput]):
    """Iterates over the outputs of a submitted request; each call of `next` waits for the next token.

    Raises:
        GenerationError: the logits contain NaN, the device is out of memory, or the scheduler was closed.
    """

    def __init__(self, handle: RequestHandle) -> None:
        self.handle = handle
        self.finished = False
        self.error: BaseException | None = None

    def __next__(self) -> TokenOutput:
        """Wait for the next output."""
        output = None if self.finished else self._get()
        if output is None:
            raise self.error or StopIteration
        return output

    def batches(self, min_interval_s: float) -> Iterator[list[TokenOutput]]:
        """Yield lists of available outputs, at most one list per `min_interval_s` seconds.

        The final output is yielded without waiting for the interval. With min_interval_s=0, each list has one output.
        """
        while not self.finished and (output := self._get()):
            outputs = [output]
            while min_interval_s and not self.finished and not self.handle.outputs.empty() and (output := self._get()):
                outputs.append(output)
            yield outputs
            if min_interval_s and not self.finished:
                self.handle.finished.wait(min_interval_s)
        if self.error is not None:
            raise self.error

    together = FormerAttribute("batches")

    def _get(self) -> TokenOutput | None:
        """Wait for the next output and return it; None after an error or a cancellation."""
        _, output = self.handle.outputs.get()
        self.finished = not isinstance(output, TokenOutput) or output.finish_reason is not None
        self.error = output if isinstance(output, BaseException) else None
        return output if isinstance(output, TokenOutput) else None

    def close(self) -> None:
        """Cancel the request, from any thread; a thread that waits for an output stops waiting."""
        self.handle.cancelled = True
        self.handle.put(None)

    def __del__(self) -> None:
        self.handle.cancelled = True
