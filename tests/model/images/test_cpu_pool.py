"""The CPU pool computes in at most as many threads as there are cores."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import model.images.embedding_cache
from model.images.embedding_cache import CpuPool, count_cores

SLOTS = 3


@pytest.fixture(autouse=True)
def three_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to have cores for three threads, each with torch's number of threads per operation."""
    monkeypatch.setattr(model.images.embedding_cache, "count_cores", lambda: SLOTS * torch.get_num_threads())


def test_at_least_one_core_is_counted() -> None:
    assert count_cores() >= 1


def test_a_slot_has_the_cores_of_a_torch_operation(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_all_slots_are_used_concurrently() -> None:
    meeting = threading.Barrier(SLOTS)  # passed only if all slots are active
    assert len(CpuPool().map(lambda _: meeting.wait(60), range(2 * SLOTS))) == 2 * SLOTS


def test_threads_of_several_callers_share_the_slots() -> None:
    cpu_pool, lock, inside, most = CpuPool(), threading.Lock(), set[int](), set[int]()
    meeting = threading.Barrier(SLOTS)

    def work(item: int) -> None:
        with lock:
            inside.add(item)
        meeting.wait(60)
        with lock:
            most.add(len(inside))
            inside.remove(item)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda caller: cpu_pool.map(work, range(9 * caller, 9 * caller + 9)), range(4)))
    assert max(most) == SLOTS
    assert cpu_pool.active == 0


def test_an_error_is_raised_and_frees_the_slot() -> None:
    def work(item: int) -> int:
        if item in (3, 7):
            raise ValueError(f"item {item}")
        return item

    cpu_pool = CpuPool()
    for _ in range(SLOTS + 1):
        with pytest.raises(ValueError, match="item 3"):
            cpu_pool.map(work, range(10))
    assert cpu_pool.active == 0


def test_threads_end_with_the_call() -> None:
    before = threading.active_count()
    CpuPool().map(str, range(20))
    assert threading.active_count() == before


def test_new_threads_use_torch_s_thread_setting() -> None:
    assert set(CpuPool().map(lambda _: torch.get_num_threads(), range(SLOTS))) == {torch.get_num_threads()}
