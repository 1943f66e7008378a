"""Threads that call a function together, each for its own items."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from model.images.embedding_cache import MicroBatcher

PATIENCE = 60  # seconds


class Doubling:
    """Doubles numbers, but for 13; once asked for 0, it waits until it is let go.

    Attributes:
        calls: the items of each.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.is_in, self.may_go = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        if 0 in items and not self.may_go.is_set():
            self.is_in.set()
            assert self.may_go.wait(PATIENCE)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


@contextmanager
def asked_while_busy(
    doubling: Doubling, shared: MicroBatcher[int, int], *questions: list[int]
) -> Iterator[list[Future[list[int]]]]:
    """Have a thread for each list of items wait, in their order, while another is in the function; then let it go."""
    with ThreadPoolExecutor(1 + len(questions)) as threads:
        first = threads.submit(shared.map, [0])
        assert doubling.is_in.wait(PATIENCE)
        asked, expected = [], 1
        for items in questions:
            asked.append(threads.submit(shared.map, items))
            expected += len(items)
            while len(shared._queue) < expected:
                pass
        doubling.may_go.set()
        yield asked
        assert first.result(PATIENCE) == [0]


def test_what_waits_is_taken_together() -> None:
    doubling = Doubling()
    shared = MicroBatcher(doubling, 4)
    with asked_while_busy(doubling, shared, [1], [2, 3], [4, 5, 6], []) as asked:
        assert [one.result(PATIENCE) for one in asked] == [[2], [4, 6], [8, 10, 12], []]
    assert doubling.calls == [[0], [1, 2, 3, 4], [5, 6]]


def test_one_thread_has_more_than_a_call_takes() -> None:
    doubling = Doubling()
    assert MicroBatcher(doubling, 2).map([1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert doubling.calls == [[1, 2], [3, 4], [5]]


def test_a_failure_is_that_of_its_item_alone() -> None:
    doubling = Doubling()
    shared = MicroBatcher(doubling, 4)
    with asked_while_busy(doubling, shared, [1], [13], [2]) as asked:
        assert asked[0].result(PATIENCE) == [2]
        with pytest.raises(ValueError, match="13"):
            asked[1].result(PATIENCE)
        assert asked[2].result(PATIENCE) == [4]
    assert shared.map([5]) == [10]


def test_an_interrupt_takes_nothing_from_others() -> None:
    interrupts, doubling = [KeyboardInterrupt()], Doubling()
    doubling.may_go.set()

    def double(items: list[int]) -> list[int]:
        if interrupts and 7 in items:
            raise interrupts.pop()
        return doubling(items)

    shared = MicroBatcher(double, 4)
    with pytest.raises(KeyboardInterrupt):
        shared.map([7, 8])
    assert shared.map([9]) == [18]
    assert doubling.calls == [[7, 8, 9]]
