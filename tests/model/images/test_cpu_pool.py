"""Work in as many threads as there are cores."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import model.images.embedding_cache
from model.images.embedding_cache import CpuPool, count_cores

PLACES = 3


@pytest.fixture(autouse=True)
def three_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there are cores for three threads, each of which has as many as torch takes."""
    monkeypatch.setattr(model.images.embedding_cache, "count_cores", lambda: PLACES * torch.get_num_threads())


def test_there_is_a_core() -> None:
    assert count_cores() >= 1


def test_a_place_is_as_many_cores_as_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu_pool, threads, max_workers in ((8, 2, 4), (8, 3, 2), (2, 2, 1), (2, 5, 1)):
        monkeypatch.setattr(model.images.embedding_cache, "count_cores", lambda cpu_pool=cpu_pool: cpu_pool)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert CpuPool().max_workers == max_workers


def test_results_come_in_the_order_of_the_items() -> None:
    first_ends_last = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert first_ends_last.wait(60)
        elif item == 9:
            first_ends_last.set()
        return item * item

    assert CpuPool().map(work, range(10)) == [item * item for item in range(10)]
    assert CpuPool().map(work, []) == []


def test_every_place_is_taken_at_once() -> None:
    meeting = threading.Barrier(PLACES)  # which nobody passes alone
    assert len(CpuPool().map(lambda _: meeting.wait(60), range(2 * PLACES))) == 2 * PLACES


def test_threads_of_several_callers_share_the_places() -> None:
    cpu_pool, lock, inside, most = CpuPool(), threading.Lock(), set[int](), set[int]()
    meeting = threading.Barrier(PLACES)

    def work(item: int) -> None:
        with lock:
            inside.add(item)
        meeting.wait(60)
        with lock:
            most.add(len(inside))
            inside.remove(item)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda caller: cpu_pool.map(work, range(9 * caller, 9 * caller + 9)), range(4)))
    assert max(most) == PLACES
    assert cpu_pool.active == 0


def test_an_error_is_raised_and_leaves_no_place_taken() -> None:
    def work(item: int) -> int:
        if item in (3, 7):
            raise ValueError(f"item {item}")
        return item

    cpu_pool = CpuPool()
    for _ in range(PLACES + 1):
        with pytest.raises(ValueError, match="item 3"):
            cpu_pool.map(work, range(10))
    assert cpu_pool.active == 0


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    CpuPool().map(str, range(20))
    assert threading.active_count() == before


def test_a_new_thread_takes_as_many_cores_for_an_operation_as_the_program_has_set() -> None:
    assert set(CpuPool().map(lambda _: torch.get_num_threads(), range(PLACES))) == {torch.get_num_threads()}
