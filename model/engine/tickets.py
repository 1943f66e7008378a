"""What the scheduler and whoever has asked it hold of a request: where replies are put, and where they are read."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from .request import Request, Step

Reply = Step | BaseException | None  # None: it was cancelled
# With the request that each reply is to. Not with its ticket: replies that nobody reads would keep it, and it them.
Replies: TypeAlias = "queue.SimpleQueue[tuple[Request, Reply]]"


@dataclass(eq=False)
class Ticket:
    """A submitted request, and where its replies go.

    Attributes:
        over: set when the last reply has been given, or when nobody wants one any more.
    """

    request: Request
    replies: Replies
    cancelled: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def reply(self, reply: Reply) -> None:
        """Give the next reply."""
        self.replies.put((self.request, reply))
        if not isinstance(reply, Step) or reply.finish_reason is not None:
            self.over.set()


class Steps(Iterator[Step]):
    """The steps of a submitted request as they come.

    Raises:
        GenerationError: the logits are not numbers, the memory does not suffice, or the scheduler was closed.
    """

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.ended = False
        self.error: BaseException | None = None

    def __next__(self) -> Step:
        """Wait for the next step."""
        step = None if self.ended else self._read()
        if step is None:
            raise self.error or StopIteration
        return step

    def together(self, pause_s: float) -> Iterator[list[Step]]:
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

    def _read(self) -> Step | None:
        """Return the next step, None where there is none and never will be."""
        _, reply = self.ticket.replies.get()
        self.ended = not isinstance(reply, Step) or reply.finish_reason is not None
        self.error = reply if isinstance(reply, BaseException) else None
        return reply if isinstance(reply, Step) else None

    def close(self) -> None:
        """Cancel the request, from any thread; whoever waits for a step waits no more."""
        self.ticket.cancelled = True
        self.ticket.reply(None)

    def __del__(self) -> None:
        self.ticket.cancelled = True
