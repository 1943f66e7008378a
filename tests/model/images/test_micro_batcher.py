"""The micro-batcher merges concurrent calls of several threads and returns each thread's own results."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from model.images.embedding_cache import MicroBatcher

PATIENCE = 60  # seconds


class Doubling:
    """Doubles numbers; raises an error for 13, and blocks on 0 until released.

    Attributes:
        calls: the items of each call.
        entered, may_return: set when a call that blocks has started, and to release it.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.entered, self.may_return = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        if 0 in items and not self.may_return.is_set():
            self.entered.set()
            assert self.may_return.wait(PATIENCE)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


@contextmanager
def queued_while_busy(
    doubling: Doubling, batcher: MicroBatcher[int, int], *questions: list[int]
) -> Iterator[list[Future[list[int]]]]:
    """Queue one call per list of items, in order, while another call runs; then release that call."""
    with ThreadPoolExecutor(1 + len(questions)) as threads:
        first = threads.submit(batcher.map, [0])
        assert doubling.entered.wait(PATIENCE)
        queued, expected = [], 1
        for items in questions:
            queued.append(threads.submit(batcher.map, items))
            expected += len(items)
            while len(batcher._queue) < expected:
                pass
        doubling.may_return.set()
        yield queued
        assert first.result(PATIENCE) == [0]


def test_queued_calls_are_merged() -> None:
    doubling = Doubling()
    batcher = MicroBatcher(doubling, 4)
    with queued_while_busy(doubling, batcher, [1], [2, 3], [4, 5, 6], []) as queued:
        assert [one.result(PATIENCE) for one in queued] == [[2], [4, 6], [8, 10, 12], []]
    assert doubling.calls == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_call_larger_than_a_batch_is_split() -> None:
    doubling = Doubling()
    assert MicroBatcher(doubling, 2).map([1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert doubling.calls == [[1, 2], [3, 4], [5]]


def test_a_failed_item_does_not_fail_others() -> None:
    doubling = Doubling()
    batcher = MicroBatcher(doubling, 4)
    with queued_while_busy(doubling, batcher, [1], [13], [2]) as queued:
        assert queued[0].result(PATIENCE) == [2]
        with pytest.raises(ValueError, match="13"):
            queued[1].result(PATIENCE)
        assert queued[2].result(PATIENCE) == [4]
    assert batcher.map([5]) == [10]


def test_an_interrupt_loses_no_item_of_other_threads() -> None:
    interrupts, doubling = [KeyboardInterrupt()], Doubling()
    doubling.may_return.set()

    def double(items: list[int]) -> list[int]:
        if interrupts and 7 in items:
            raise interrupts.pop()
        return doubling(items)

    batcher = MicroBatcher(double, 4)
    with pytest.raises(KeyboardInterrupt):
        batcher.map([7, 8])
    assert batcher.map([9]) == [18]
    assert doubling.calls == [[7, 8, 9]]
