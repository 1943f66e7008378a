"""Nothing disturbs a CUDA-graph capture, from its warm-up to its end."""

import gc
import threading
import weakref

import pytest

from model.kernels.torch_ops import capture_lock, exclusive_capture


class Graph:
    """An object in a reference cycle, which only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collecting() -> None:
    assert gc.isenabled()


@pytest.mark.usefixtures("collecting")
def test_garbage_collection_is_paused_during_a_capture() -> None:
    with exclusive_capture():
        graph = weakref.ref(Graph())
        kept = [[number] for number in range(10 * gc.get_threshold()[0])]  # far more than trigger a collection
        assert graph() is not None
    assert gc.isenabled() and len(kept) > 0


@pytest.mark.usefixtures("collecting")
def test_the_garbage_collector_setting_is_restored() -> None:
    with pytest.raises(RuntimeError, match="invalid"), exclusive_capture():
        raise RuntimeError("invalid")
    assert gc.isenabled() and not capture_lock.locked()
    gc.disable()
    try:
        with exclusive_capture():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_captures_exclude_one_another() -> None:
    started, order = threading.Event(), []

    def capture() -> None:
        started.set()
        with exclusive_capture():
            order.append("other")

    other = threading.Thread(target=capture)
    with exclusive_capture():
        other.start()
        started.wait()
        order.append("first")
    other.join()
    assert order == ["first", "other"]
