"""Schedule requests: continuous batching on one thread for many callers, and plain loops without a thread.

    scheduler = Scheduler(network, eos_token_id=130005)
    for output in scheduler.submit(request):     # from any thread; closing the iterator, from any thread, cancels
        ...

A single thread runs the batch while there are requests, in FIFO order. A long prompt is prefilled a few layers at a
time between decode steps (chunked prefill), so that running sequences do not wait long.
"""

import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from ..aliases import FormerAttribute, former_keywords
from ..errors import BusyError, GenerationError
from .batch import Batch
from .cuda_graph import fits_prefill_graph
from .feed import Feed
from .layers import weights_fingerprint
from .network import Network
from .sequence import OutputQueue, QueuedOutput, Request, RequestHandle, RequestOutput, TokenOutput, TokenStream

T = TypeVar("T")

# Limit of the prefill between two decode steps: number of layers times number of prompt tokens (at least one layer).
PREFILL_BUDGET = 8192
# The thread ends after this time without requests.
IDLE_TIMEOUT_S = 5.0


def take_prefill_group(waiting: deque[T], most: int, request_of: Callable[[T], Request]) -> list[T]:
    """Remove and return the requests at the head of a queue that are prefilled together.

    Args:
        waiting: the queue.
        most: maximum number of requests.
        request_of: returns the request of an item of the queue.

    Returns:
        The first request, and those after it that share its prefill graph.
    """
    group: list[T] = []
    lengths: list[int] = []
    while waiting and len(group) < most:
        lengths.append(len(request_of(waiting[0]).token_ids))
        if group and not fits_prefill_graph(lengths):
            break
        group.append(waiting.popleft())
    return group


@former_keywords(end_id="eos_token_id")
def generate(network: Network, request: Request, *, eos_token_id: int) -> Iterator[TokenOutput]:
    """Generate the answer to one prompt, token by token; closing the iterator stops.

    Args:
        network: the model.
        request: the prompt and its sampling parameters.
        eos_token_id: the token that ends an answer.

    Raises:
        GenerationError: the logits contain NaN, or the device is out of memory.
    """
    for _, output in generate_all(network, [request], eos_token_id=eos_token_id, max_batch_size=1):
        if isinstance(output, GenerationError):
            raise output
        yield output


@former_keywords(end_id="eos_token_id", rows="max_batch_size")
def generate_all(
    network: Network, requests: Iterable[Request], *, eos_token_id: int, max_batch_size: int
) -> Iterator[RequestOutput]:
    """Generate answers to many prompts with continuous batching, in FIFO order; yield outputs as they are produced.

    The last output of a request has a finish reason, or is an error that concerns this request alone.

    Args:
        network: the model.
        requests: the prompts and their sampling parameters.
        eos_token_id: the token that ends an answer.
        max_batch_size: maximum number of running sequences.

    Raises:
        GenerationError: the device is out of memory.
    """
    waiting = deque(requests)
    limit = network.max_sequence_length
    capacity = max((request.max_total_tokens(limit) for request in waiting), default=0)
    batch = Batch(network, max_batch_size, capacity, eos_token_id)
    while waiting or batch.sequences:
        while group := take_prefill_group(waiting, batch.free_slots, lambda request: request):
            yield from batch.add(*group)
        if batch.sequences:
            yield from batch.step()


def close_if_alive(reference: "weakref.ref[Scheduler]") -> None:
    """Close a scheduler unless it has been garbage-collected."""
    scheduler = reference()
    if scheduler is not None:
        scheduler.close()


class Scheduler:
    """Runs the requests of many threads in one batch.

    Args:
        network: the model.
        eos_token_id: the token that ends an answer.
        max_batch_size: maximum number of running sequences.
        capacity: maximum number of tokens of a prompt and its answer; None for the network's maximum sequence length.
        max_queue_size: maximum number of requests that wait for a slot.
    """

    @former_keywords(end_id="eos_token_id", rows="max_batch_size", most_waiting="max_queue_size")
    def __init__(
        self,
        network: Network,
        *,
        eos_token_id: int,
        max_batch_size: int = 16,
        capacity: int | None = None,
        max_queue_size: int = 64,
    ) -> None:
        capacity = network.max_sequence_length if capacity is None else capacity
        self.batch = Batch(network, max_batch_size, capacity, eos_token_id)
        self.max_queue_size = max_queue_size
        self.waiting: deque[RequestHandle] = deque()
        self.running: dict[Request, RequestHandle] = {}
        self.changed = threading.Condition()
        self.closed = False
        self.thread: threading.Thread | None = None
        # Batch size at which the next prefill ran out of memory; it is retried when fewer sequences are running.
        self.oom_batch_size: int | None = None
        # At interpreter exit, before daemon threads are killed.
        weakref.finalize(self, close_if_alive, weakref.ref(self))

    def submit(self, request: Request) -> TokenStream:
        """Queue a request without waiting; return an iterator over its outputs, whose `close` cancels the request.

        Raises:
            BusyError: the queue is full.
            GenerationError: the scheduler is closed, or the prompt exceeds the capacity.
        """
        with self.changed:
            if len(self.waiting) >= self.max_queue_size:
                raise BusyError(f"{self.max_queue_size} questions are waiting already. Try again a little later.")
            return TokenStream(self._enqueue(request, queue.SimpleQueue()))

    def requests_ahead(self, stream: TokenStream) -> int | None:
        """Return the number of queued requests before the one of `stream`; None if that one has left the queue."""
        with self.changed:
            return next((count for count, handle in enumerate(self.waiting) if handle is stream.handle), None)

    @former_keywords(at_once="max_concurrent")
    def answer_all(
        self, requests: Iterable[Request | T], max_concurrent: int, *, lookahead: int = 0
    ) -> Generator[RequestOutput | T, None, None]:
        """Answer many requests and yield outputs as they are produced; closing the iterator cancels the rest.

        Args:
            requests: read lazily in a thread, as earlier ones finish; not limited by `max_queue_size`. Items that are
                not requests are yielded unchanged.
            max_concurrent: maximum number of these requests in the scheduler; raises `max_batch_size` if that is less.
            lookahead: number of further requests that may wait in the scheduler, if its batch is not larger.

        Raises:
            GenerationError: the scheduler is closed, or a prompt exceeds the capacity.
        """
        self.batch.max_batch_size = max(self.batch.max_batch_size, max_concurrent)
        room = max_concurrent + (lookahead if self.batch.max_batch_size == max_concurrent else 0)
        return Feed(requests, self._enqueue_locked, room).outputs()

    @former_keywords(rows="max_batch_size", most_waiting="max_queue_size")
    def set_limits(self, max_batch_size: int | None, max_queue_size: int | None) -> None:
        """Change the maximum batch size and queue size; None leaves a limit unchanged."""
        self.batch.max_batch_size = max_batch_size or self.batch.max_batch_size
        self.max_queue_size = max_queue_size or self.max_queue_size

    limit = FormerAttribute("set_limits")

    def close(self) -> None:
        """Stop the thread; unfinished requests receive a GenerationError."""
        with self.changed:
            self.closed = True
            self.changed.notify()
            thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def is_idle(self) -> bool:
        """Whether no request is waiting or running."""
        return not self.waiting and not self.running

    def _enqueue_locked(self, request: Request, outputs: OutputQueue) -> RequestHandle:
        with self.changed:
            return self._enqueue(request, outputs)

    def _enqueue(self, request: Request, outputs: OutputQueue) -> RequestHandle:
        """Append a request to the queue; the caller holds `changed`."""
        capacity = self.batch.capacity
        if len(request.token_ids) >= capacity:
            raise GenerationError(
                f"The prompt has {len(request.token_ids)} tokens, but the maximum prompt length is {capacity - 1}."
            )
        if self.closed:
            raise GenerationError("The model has been shut down and takes no more questions.")
        handle = RequestHandle(replace(request), outputs)  # a copy, because one request may be submitted twice
        self.waiting.append(handle)
        self.changed.notify()
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
            self.thread.start()
        return handle

    def _run(self) -> None:
        while self._wait_for_work():
            self._drop_cancelled()
            for _ in range(self.batch.decoder.prefill_groups):
                if not self._prefill_group():
                    break
            if self.batch.sequences:
                self._run_and_deliver(self.batch.step, self._handles_of(self.batch.requests))
        if self.closed:
            for handle in (*self.running.values(), *self.waiting):
                handle.put(GenerationError("The model was shut down before the answer was complete."))

    def _wait_for_work(self) -> bool:
        """Block while there are no requests; return whether to continue."""
        with self.changed:
            while not (self.closed or self.waiting or self.running):
                if not self.changed.wait(IDLE_TIMEOUT_S) and self.is_idle:
                    self.thread = None
                    return False
            return not self.closed

    def _drop_cancelled(self) -> None:
        with self.changed:
            self.waiting = deque(handle for handle in self.waiting if not handle.cancelled)
        for request, handle in list(self.running.items()):
            if handle.cancelled:
                self.batch.cancel(request)
                del self.running[request]

    def _prefill_group(self) -> bool:
        """Start or continue the prefill of a group of requests; return whether it is complete."""
        if self.batch.prefilling is None:
            self._start_prefill()
        if self.batch.prefilling is None:
            return False
        self._continue_prefill()
        return self.batch.prefilling is None

    def _start_prefill(self) -> None:
        """Start the prefill of the oldest waiting requests, as far as slots and memory allow."""
        batch_size = len(self.batch.sequences)
        if self.oom_batch_size is not None and batch_size >= self.oom_batch_size:
            return
        with self.changed:
            free = 1 if self.oom_batch_size is not None else self.batch.free_slots
            group = take_prefill_group(self.waiting, free, lambda handle: handle.request)
        if not group:
            return
        try:
            outputs = self.batch.start_prefill(*(handle.request for handle in group))
        except GenerationError as error:
            self._requeue(group, error)
            return
        self.oom_batch_size = None
        self.running.update((handle.request, handle) for handle in group)
        self._deliver(outputs)

    def _requeue(self, group: Sequence[RequestHandle], error: GenerationError) -> None:
        """Requeue requests that ran out of memory; fail with `error` a request that does not fit even alone."""
        if len(group) == 1 and not self.batch.sequences:
            self.oom_batch_size = None
            group[0].put(error)
            return
        # A group is retried at the same batch size, but with a single request.
        self.oom_batch_size = len(self.batch.sequences) + (len(group) > 1)
        with self.changed:
            self.waiting.extendleft(reversed(group))

    def _continue_prefill(self) -> None:
        prefilling = self.batch.prefilling
        assert prefilling is not None
        layers = max(1, PREFILL_BUDGET // prefilling.num_tokens) if self.batch.sequences else None
        handles = self._handles_of(sequence.request for sequence in prefilling.sequences)
        self._run_and_deliver(lambda: self.batch.continue_prefill(layers), handles)

    def _handles_of(self, requests: Iterable[Request]) -> list[RequestHandle]:
        return [self.running[request] for request in requests if request in self.running]

    def _run_and_deliver(self, work: Callable[[], list[RequestOutput]], handles: list[RequestHandle]) -> None:
        """Run a prefill or a decode step and deliver its outputs; an exception fails the requests of `handles`."""
        try:
            outputs = work()
        except Exception as error:
            for handle in handles:
                self.batch.cancel(handle.request)
                self._finish(handle, error)
            return
        self._deliver(outputs)

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        for request, output in outputs:
            handle = self.running.get(request)
            if handle is None:  # cancelled in the meantime
                continue
            if isinstance(output, GenerationError) or output.finish_reason is not None:
                self._finish(handle, output)
            else:
                handle.put(output)

    def _finish(self, handle: RequestHandle, output: QueuedOutput) -> None:
        handle.put(output)
        del self.running[handle.request]


_lock = threading.Lock()
_schedulers: "weakref.WeakKeyDictionary[Network, tuple[object, Scheduler]]" = weakref.WeakKeyDictionary()


@former_keywords(end_id="eos_token_id")
def get_scheduler(network: Network, eos_token_id: int) -> Scheduler:
    """Return the shared scheduler of a network; it does not keep the network alive.

    Creates a new one if weights have been replaced or moved, or if hooks have changed; the former one finishes its
    requests.
    """
    fingerprint = (eos_token_id, weights_fingerprint(network))
    with _lock:
        known = _schedulers.get(network)
        if known is None or known[0] != fingerprint:
            known = fingerprint, Scheduler(weakref.proxy(network), eos_token_id=eos_token_id)
            _schedulers[network] = known
            weakref.finalize(network, known[1].close)
        return known[1]
