"""Feed a scheduler from a lazy source of requests, which is read in a thread of its own, and yield the outputs."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ..errors import GenerationError
from .sequence import OutputQueue, Request, RequestHandle, RequestOutput, TokenOutput

T = TypeVar("T")


class Feed(Generic[T]):
    """Requests that a thread submits as earlier ones finish. The thread starts with the first output.

    Args:
        source: requests, and other items, which are yielded unchanged. It is read in the thread, and closed there.
        submit: queues a request whose outputs go to a queue.
        limit: maximum number of items that are read and not finished.
    """

    def __init__(
        self, source: Iterable[Request | T], submit: Callable[[Request, OutputQueue], RequestHandle], limit: int
    ) -> None:
        self.source = source
        self.submit = submit
        self.room = threading.Semaphore(limit)
        # Pairs of a request and its output, of this object and another item, or of None and the exception at the end.
        self.queue: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        # Keyed by the handle's copy of the request, with the caller's own request as the second value.
        self.running: dict[Request, tuple[RequestHandle, Request]] = {}
        self.lock = threading.Lock()
        self.stopped = False

    def outputs(self) -> Generator[RequestOutput | T, None, None]:
        """Yield outputs and other items as they come; closing the generator cancels the rest."""
        threading.Thread(target=self._run, name="feed", daemon=True).start()
        try:
            while True:
                request, output = self.queue.get()
                if request is self:
                    self.room.release()
                    yield output
                elif request is None:
                    if output is not None:
                        raise output
                    if not self.running:
                        return
                    yield from self._remaining_outputs()
                    return
                else:
                    yield self._take(request, output)
        finally:
            self._stop()

    def _remaining_outputs(self) -> Generator[RequestOutput, None, None]:
        """Yield the outputs after the source has ended."""
        while self.running:
            yield self._take(*self.queue.get())

    def _take(self, copied: Request, output: Any) -> RequestOutput:
        """Return the caller's request with its output; raise an error that concerns no single request."""
        assert output is not None, "only a TokenStream cancels by itself"
        if not isinstance(output, TokenOutput | GenerationError):
            raise output
        with self.lock:  # the thread may not have noted the request yet
            _, request = self.running[copied]
        if isinstance(output, GenerationError) or output.finish_reason is not None:
            del self.running[copied]
            self.room.release()
        return request, output

    def _stop(self) -> None:
        """Cancel running requests and read no further items, without waiting for an item that is being read."""
        with self.lock:
            self.stopped = True
            for handle, _ in self.running.values():
                handle.cancelled = True
        self.room.release()

    def _run(self) -> None:
        try:
            self._read_source()
        except BaseException as error:  # raised again in the thread that reads the outputs
            self.queue.put((None, error))
        else:
            self.queue.put((None, None))

    def _read_source(self) -> None:
        items = iter(self.source)
        try:
            while True:
                self.room.acquire()
                if self.stopped:
                    return
                try:
                    item = next(items)
                except StopIteration:
                    return
                self._accept(item)
        finally:
            with suppress(AttributeError):
                items.close()  # type: ignore[attr-defined]

    def _accept(self, item: Request | T) -> None:
        if not isinstance(item, Request):
            self.queue.put((self, item))
            return
        with self.lock:
            if not self.stopped:
                handle = self.submit(item, self.queue)
                self.running[handle.request] = handle, item
