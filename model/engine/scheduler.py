"""Serve one network to many threads: requests wait their turn, join a batch, and leave it when they end.

    scheduler = Scheduler(network, end_id=130005)
    for step in scheduler.submit(request):     # from any thread; closing the iterator, from any thread, cancels
        ...

A single thread works on the batch while there is something to do. First come, first served. A long prompt is read a few
layers at a time, between the steps of the answers that are being written.
"""

import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from ..errors import BusyError, GenerationError
from .batch import Batch
from .generate import take_prefill_group
from .layers import weights_fingerprint
from .network import Network
from .sequence import OutputQueue, QueuedOutput, Request, RequestHandle, RequestOutput, TokenOutput, TokenStream

# Layers x tokens of prompts that are read between two steps, so that no running answer waits long.
PREFILL_BUDGET = 8192
# The thread ends after so long without work.
IDLE_TIMEOUT_S = 5.0


def close_if_alive(reference: "weakref.ref[Scheduler]") -> None:
    """Close a scheduler that there still is."""
    scheduler = reference()
    if scheduler is not None:
        scheduler.close()


class Scheduler:
    """Answers requests of several threads side by side.

    Args:
        network: answers.
        end_id: the token that ends an answer.
        rows: the most answers at a time.
        capacity: the most tokens of a prompt with its answer; None for as many as the network has positions.
        most_waiting: the most requests that wait for a row.
    """

    def __init__(
        self,
        network: Network,
        *,
        eos_token_id: int,
        rows: int = 16,
        capacity: int | None = None,
        max_queue_size: int = 64,
    ) -> None:
        self.batch = Batch(network, rows, network.max_sequence_length if capacity is None else capacity, eos_token_id)
        self.max_queue_size = max_queue_size
        self.waiting: deque[RequestHandle] = deque()
        self.running: dict[Request, RequestHandle] = {}
        self.changed = threading.Condition()
        self.closed = False
        self.thread: threading.Thread | None = None
        # Rows in use when the memory did not suffice for one more: it has to wait until there are fewer.
        self.oom_batch_size: int | None = None
        weakref.finalize(
            self, close_if_alive, weakref.ref(self)
        )  # at the end of the program, before threads are killed

    def submit(self, request: Request) -> TokenStream:
        """Queue a request at once, and return an iterator over its steps; closing it cancels.

        Raises:
            BusyError: too many requests wait already.
            GenerationError: the scheduler is closed, or the prompt is too long for a row.
        """
        with self.changed:
            if len(self.waiting) >= self.max_queue_size:
                raise BusyError(f"{self.max_queue_size} questions are waiting already. Try again a little later.")
            return TokenStream(self._enqueue(request, queue.SimpleQueue()))

    def answer_all(self, requests: Iterable[Request], at_once: int) -> Iterator[RequestOutput]:
        """Answer many requests, up to `at_once` at a time; yield what comes as it comes. Closing cancels the rest.

        Raises:
            GenerationError: the scheduler is closed, or a prompt is too long for a row.
        """
        replies: OutputQueue = queue.SimpleQueue()
        coming, running = iter(requests), dict[Request, tuple[RequestHandle, Request]]()  # by the ticket's copy
        self.batch.most = max(self.batch.most, at_once)
        try:
            while True:
                for request in islice(coming, at_once - len(running)):
                    with self.changed:
                        ticket = self._enqueue(request, replies)
                    running[ticket.request] = ticket, request
                if not running:
                    return
                copied, reply = replies.get()
                assert reply is not None, "nobody else closes these"
                if not isinstance(reply, TokenOutput | GenerationError):
                    raise reply
                _, request = running[copied]
                if isinstance(reply, GenerationError) or reply.finish_reason is not None:
                    del running[copied]
                yield request, reply
        finally:
            for ticket, _ in running.values():
                ticket.cancelled = True

    def limit(self, rows: int | None, max_queue_size: int | None) -> None:
        """Change how many answers there may be at a time, and how many requests may wait; None leaves a limit."""
        self.batch.most = rows or self.batch.most
        self.max_queue_size = max_queue_size or self.max_queue_size

    def close(self) -> None:
        """End the thread; requests that are not complete get an error."""
        with self.changed:
            self.closed = True
            self.changed.notify()
            thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or being answered."""
        return not self.waiting and not self.running

    def _enqueue(self, request: Request, replies: OutputQueue) -> RequestHandle:
        """Put a request at the end of the queue, `changed` being held."""
        room = self.batch.capacity
        if len(request.token_ids) >= room:
            raise GenerationError(f"The prompt has {len(request.token_ids)} tokens; there is room for {room - 1}.")
        if self.closed:
            raise GenerationError("The model has been shut down and takes no more questions.")
        ticket = RequestHandle(replace(request), replies)  # one request may be submitted twice
        self.waiting.append(ticket)
        self.changed.notify()
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
            self.thread.start()
        return ticket

    def _work(self) -> None:
        while self._wait_for_work():
            self._drop_cancelled()
            if self.batch.opening is None:
                self._open_next()
            if self.batch.opening is not None:
                self._read()
            if self.batch.rows:
                self._deal(self.batch.step, self._running(self.batch.requests))
        if self.closed:
            for ticket in (*self.running.values(), *self.waiting):
                error = GenerationError("The model was shut down before the answer was complete.")
                ticket.reply(error)

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; return whether to go on."""
        with self.changed:
            while not (self.closed or self.waiting or self.running):
                if not self.changed.wait(IDLE_TIMEOUT_S) and self.is_idle:
                    self.thread = None
                    return False
            return not self.closed

    def _drop_cancelled(self) -> None:
        with self.changed:
            self.waiting = deque(ticket for ticket in self.waiting if not ticket.cancelled)
        for request, ticket in list(self.running.items()):
            if ticket.cancelled:
                self.batch.cancel(request)
                del self.running[request]

    def _open_next(self) -> None:
        """Make ready to read the prompts that have waited longest, if there are rows and memory for them."""
        used = len(self.batch.rows)
        if self.oom_batch_size is not None and used >= self.oom_batch_size:
            return
        with self.changed:
            free = 1 if self.oom_batch_size is not None else self.batch.free
            group = take_prefill_group(self.waiting, free, lambda ticket: ticket.request)
        if not group:
            return
        try:
            events = self.batch.open(*(ticket.request for ticket in group))
        except GenerationError as error:
            self._make_wait(group, error)
            return
        self.oom_batch_size = None
        self.running.update((ticket.request, ticket) for ticket in group)
        self._hand_out(events)

    def _make_wait(self, group: Sequence[RequestHandle], error: GenerationError) -> None:
        """Put back what the memory does not suffice for; what is too much even alone ends with `error`."""
        if len(group) == 1 and not self.batch.rows:
            self.oom_batch_size = None
            group[0].reply(error)
            return
        self.oom_batch_size = len(self.batch.rows) + (len(group) > 1)  # fewer of them may fit at once
        with self.changed:
            self.waiting.extendleft(reversed(group))

    def _read(self) -> None:
        opening = self.batch.opening
        assert opening is not None
        layers = max(1, PREFILL_BUDGET // opening.tokens) if self.batch.rows else None
        self._deal(lambda: self.batch.read(layers), self._running(row.request for row in opening.rows))

    def _running(self, requests: Iterable[Request]) -> list[RequestHandle]:
        return [self.running[request] for request in requests if request in self.running]

    def _deal(self, work: Callable[[], list[RequestOutput]], tickets: list[RequestHandle]) -> None:
        """Hand out what a piece of work on the batch yields; what it raises ends `tickets`."""
        try:
            events = work()
        except Exception as error:
            for ticket in tickets:
                self.batch.cancel(ticket.request)
                self._end(ticket, error)
            return
        self._hand_out(events)

    def _hand_out(self, events: list[RequestOutput]) -> None:
        for request, step in events:
            ticket = self.running.get(request)
            if ticket is None:  # was cancelled in the meantime
                continue
            if isinstance(step, GenerationError) or step.finish_reason is not None:
                self._end(ticket, step)
            else:
                ticket.reply(step)

    def _end(self, ticket: RequestHandle, reply: QueuedOutput) -> None:
        ticket.reply(reply)
        del self.running[ticket.request]


_lock = threading.Lock()
_schedulers: "weakref.WeakKeyDictionary[Network, tuple[object, Scheduler]]" = weakref.WeakKeyDictionary()


def get_scheduler(network: Network, eos_token_id: int) -> Scheduler:
    """Return the scheduler that answers for `network`, which does not keep the network alive.

    There is a new one when weights have been exchanged or moved, or a hook has come: the other ends its answers.
    """
    mark = (eos_token_id, weights_fingerprint(network))
    with _lock:
        known = _schedulers.get(network)
        if known is None or known[0] != mark:
            known = mark, Scheduler(weakref.proxy(network), eos_token_id=eos_token_id)
            _schedulers[network] = known
            weakref.finalize(network, known[1].close)
        return known[1]
