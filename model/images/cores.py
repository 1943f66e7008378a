"""The processor's cores, shared by threads of which each does a piece of work alone."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def count_cores() -> int:
    """Return how many cores this program may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Cores:
    """Lets no more threads compute at a time than there are cores for, whoever has started them.

    They do not wait for one another at each operation, as torch's own threads do, so that a core which another program
    takes delays a single piece of work.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.busy = 0

    @property
    def places(self) -> int:
        """How many threads may compute at a time, where each has as many cores as torch takes for an operation."""
        return max(1, count_cores() // torch.get_num_threads())

    @contextmanager
    def place(self) -> Iterator[None]:
        """Wait until this thread may compute; it may during the block."""
        with self.changed:
            self.changed.wait_for(lambda: self.busy < self.places)
            self.busy += 1
        try:
            yield
        finally:
            with self.changed:
                self.busy -= 1
                self.changed.notify()

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what `work` makes of each item, in threads that end with the last of them.

        Raises:
            Exception: the first item's, in their order, that `work` has raised one for.
        """

        def do(item: T) -> R:
            with self.place():
                return work(item)

        threads = min(self.places, len(items))
        if threads <= 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(do, items))
