"""One network for many threads: requests wait their turn, join a batch, and leave it when they end.

    scheduler = Scheduler(network, end_id=130005)
    for step in scheduler.submit(request):     # from any thread; closing the iterator cancels
        ...
    scheduler.close()

A single thread works on the batch. First come, first served; one prompt is read between two steps of those that are
already being answered.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ..errors import BusyError, GenerationError
from .batch import Batch, Event, Request, Step
from .decoder import Network

Reply = Step | BaseException


@dataclass(eq=False)
class Ticket:
    """A submitted request, and what has been answered so far."""

    request: Request
    replies: "queue.SimpleQueue[Reply]" = field(default_factory=queue.SimpleQueue)
    cancelled: bool = False

    def steps(self) -> Iterator[Step]:
        """Yield the steps as they come; closing the iterator cancels the request.

        Raises:
            GenerationError: the logits are not numbers, the memory does not suffice, or the scheduler was closed.
        """
        try:
            while True:
                reply = self.replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield reply
                if reply.finish_reason is not None:
                    return
        finally:
            self.cancelled = True


class Scheduler:
    """Answers requests of several threads side by side.

    Args:
        network: answers.
        end_id: the token that ends an answer.
        rows: the most answers at a time.
        capacity: the most tokens of a prompt with its answer.
        most_waiting: the most requests that wait for a row.

    Raises:
        GenerationError: the device's memory does not suffice for so many rows.
    """

    def __init__(
        self, network: Network, *, end_id: int, rows: int = 8, capacity: int = 2048, most_waiting: int = 64
    ) -> None:
        self.batch = Batch(network, rows, capacity, end_id)
        self.most_waiting = most_waiting
        self.waiting: deque[Ticket] = deque()
        self.running: dict[Request, Ticket] = {}
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self.thread.start()

    def submit(self, request: Request) -> Iterator[Step]:
        """Queue a request at once, and return an iterator over its steps; closing it cancels.

        Raises:
            BusyError: too many requests wait already.
            GenerationError: the scheduler is closed, or the prompt is too long for a row.
        """
        room = self.batch.capacity
        if len(request.token_ids) >= room:
            raise GenerationError(f"The prompt has {len(request.token_ids)} tokens; there is room for {room - 1}.")
        ticket = Ticket(replace(request))  # one request may be submitted twice
        with self.changed:
            if self.closed:
                raise GenerationError("The model has been shut down and takes no more questions.")
            if len(self.waiting) >= self.most_waiting:
                raise BusyError(f"{self.most_waiting} questions are waiting already. Try again a little later.")
            self.waiting.append(ticket)
            self.changed.notify()
        return ticket.steps()

    def close(self) -> None:
        """End the thread; requests that are not complete get an error."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _work(self) -> None:
        while self._wait_for_work():
            self._drop_cancelled()
            self._begin_next()
            if self.batch.requests:
                self._deal(self.batch.step)
        for ticket in (*self.running.values(), *self.waiting):
            ticket.replies.put(GenerationError("The model was shut down before the answer was complete."))

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; return whether to go on."""
        with self.changed:
            while not (self.closed or self.waiting or self.running):
                self.changed.wait()
            return not self.closed

    def _drop_cancelled(self) -> None:
        with self.changed:
            self.waiting = deque(ticket for ticket in self.waiting if not ticket.cancelled)
        for request, ticket in list(self.running.items()):
            if ticket.cancelled:
                self.batch.cancel(request)
                del self.running[request]

    def _begin_next(self) -> None:
        """Read the prompt that has waited longest, if there is a row for it."""
        with self.changed:
            if not (self.waiting and self.batch.free):
                return
            ticket = self.waiting.popleft()
        self.running[ticket.request] = ticket
        self._deal(lambda: self.batch.begin(ticket.request), only=ticket)

    def _deal(self, work: Callable[[], list[Event]], only: Ticket | None = None) -> None:
        """Hand out what a piece of work on the batch yields; what it raises ends `only`, or all that are running."""
        try:
            events = work()
        except Exception as error:
            for ticket in [only] if only else list(self.running.values()):
                self.batch.cancel(ticket.request)
                self._end(ticket, error)
            return
        for request, step in events:
            ticket = self.running[request]
            if isinstance(step, GenerationError) or step.finish_reason is not None:
                self._end(ticket, step)
            else:
                ticket.replies.put(step)

    def _end(self, ticket: Ticket, reply: Reply) -> None:
        ticket.replies.put(reply)
        del self.running[ticket.request]
