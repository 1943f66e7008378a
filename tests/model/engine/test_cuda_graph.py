"""Nothing comes between the warm-up and the end of a recording."""

import gc
import threading
import weakref

import pytest

from model.kernels.torch_ops import capture_lock, exclusive_capture


class Graph:
    """What only the garbage collector finds, as it refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collecting() -> None:
    assert gc.isenabled()


@pytest.mark.usefixtures("collecting")
def test_no_garbage_is_collected_meanwhile() -> None:
    with exclusive_capture():
        graph = weakref.ref(Graph())
        kept = [[number] for number in range(10 * gc.get_threshold()[0])]  # far more than starts a collection
        assert graph() is not None
    assert gc.isenabled() and len(kept) > 0


@pytest.mark.usefixtures("collecting")
def test_what_was_set_is_set_again() -> None:
    with pytest.raises(RuntimeError, match="spoilt"), exclusive_capture():
        raise RuntimeError("spoilt")
    assert gc.isenabled() and not capture_lock.locked()
    gc.disable()
    try:
        with exclusive_capture():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_one_at_a_time() -> None:
    begun, order = threading.Event(), []

    def record() -> None:
        begun.set()
        with exclusive_capture():
            order.append("other")

    other = threading.Thread(target=record)
    with exclusive_capture():
        other.start()
        begun.wait()
        order.append("first")
    other.join()
    assert order == ["first", "other"]
