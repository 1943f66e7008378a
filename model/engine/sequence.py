"""Define a request to the engine, its steps, and the queue through which another thread reads them."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from ..errors import GenerationError
from .config import GenerationConfig, IdRange


@dataclass(frozen=True)
class TokenOutput:
    """One token of an answer.

    Attributes:
        token_id: the token; None in a last step that adds none (the end token is not part of an answer).
        finish_reason: None while the answer goes on, "stop" at the end token, "length" at a limit.
    """

    token_id: int | None
    finish_reason: str | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt to be answered.

    Attributes:
        token_ids: it ends with [gMASK] <sop>.
        config: how the answer is sampled.
        forbidden: token ids never to answer with, as half-open ranges.
        images: the picture's embeddings [1, L, D], which replace the tokens from `image_start` on.
        penalize_prompt: whether the repetition penalty counts the prompt's tokens, too.
    """

    token_ids: Sequence[int]
    config: GenerationConfig
    forbidden: Sequence[IdRange] = ()
    images: torch.Tensor | None = None
    image_start: int = 0
    penalize_prompt: bool = False

    def budget(self, longest: int) -> int:
        """Return how many tokens the answer may have, at least 0, in a model of `longest` positions."""
        config = self.config
        room = min(config.max_length, longest) - len(self.token_ids)
        return max(0, room if config.max_new_tokens is None else min(room, config.max_new_tokens))

    def room(self, longest: int) -> int:
        """Return how many tokens the prompt and its answer take at most."""
        return len(self.token_ids) + self.budget(longest)


RequestOutput = tuple[Request, TokenOutput | GenerationError]


QueuedOutput = TokenOutput | BaseException | None  # None: it was cancelled
# With the request that each reply is to. Not with its ticket: replies that nobody reads would keep it, and it them.
OutputQueue: TypeAlias = "queue.SimpleQueue[tuple[Request, QueuedOutput]]"


@dataclass(eq=False)
class RequestHandle:
    """A submitted request, and where its replies go.

    Attributes:
        over: set when the last reply has been given, or when nobody wants one any more.
    """

    request: Request
    replies: OutputQueue
    cancelled: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def reply(self, reply: QueuedOutput) -> None:
        """Give the next reply."""
        self.replies.put((self.request, reply))
        if not isinstance(reply, TokenOutput) or reply.finish_reason is not None:
            self.over.set()


class TokenStream(Iterator[TokenOutput]):
    """The steps of a submitted request as they come.

    Raises:
        GenerationError: the logits are not numbers, the memory does not suffice, or the scheduler was closed.
    """

    def __init__(self, ticket: RequestHandle) -> None:
        self.ticket = ticket
        self.ended = False
        self.error: BaseException | None = None

    def __next__(self) -> TokenOutput:
        """Wait for the next step."""
        step = None if self.ended else self._read()
        if step is None:
            raise self.error or StopIteration
        return step

    def together(self, pause_s: float) -> Iterator[list[TokenOutput]]:
        """Yield the steps that have come, and then none for so many seconds, unless it is over; without, each alone."""
        while not self.ended and (step := self._read()):
            steps = [step]
            while pause_s and not self.ended and not self.ticket.replies.empty() and (step := self._read()):
                steps.append(step)
            yield steps
            if pause_s and not self.ended:
                self.ticket.over.wait(pause_s)
        if self.error is not None:
            raise self.error

    def _read(self) -> TokenOutput | None:
        """Return the next step, None where there is none and never will be."""
        _, reply = self.ticket.replies.get()
        self.ended = not isinstance(reply, TokenOutput) or reply.finish_reason is not None
        self.error = reply if isinstance(reply, BaseException) else None
        return reply if isinstance(reply, TokenOutput) else None

    def close(self) -> None:
        """Cancel the request, from any thread; whoever waits for a step waits no more."""
        self.ticket.cancelled = True
        self.ticket.reply(None)

    def __del__(self) -> None:
        self.ticket.cancelled = True
