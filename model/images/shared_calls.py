"""Calls that threads share: what takes hardly longer for many items is done for all who wait at the time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class SharedCalls(Generic[T, R]):
    """Calls a function for the items of all threads that wait for it, in one thread at a time.

    Nobody waits for company: whoever finds the function free takes what has come meanwhile, first come first served.

    Args:
        function: makes of a list of items that of their results, one for each.
        most: items in a call.
    """

    def __init__(self, function: Callable[[list[T]], list[R]], most: int) -> None:
        self.function = function
        self.most = most
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._calling = threading.Lock()

    def results(self, items: Sequence[T]) -> list[R]:
        """Return the result of each item.

        Raises:
            Exception: the function's, called for one of these items alone.
        """
        mine = [(item, Future[R]()) for item in items]
        self._waiting.extend(mine)
        with self._calling:
            while not all(future.done() for _, future in mine):
                self._call(min(self.most, len(self._waiting)))
        return [future.result() for _, future in mine]

    def _call(self, count: int) -> None:
        """Call the function for the first items that wait; where it fails, for each alone, as one may be to blame."""
        # They wait until they have their results, so that an interrupt of this thread takes them from nobody.
        items = [self._waiting[number][0] for number in range(count)]
        try:
            results = self.function(items)
        except Exception as error:
            if count > 1:
                for _ in items:
                    self._call(1)
            else:
                self._waiting.popleft()[1].set_exception(error)
        else:
            for result in results:
                self._waiting.popleft()[1].set_result(result)
