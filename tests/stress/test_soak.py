"""The soak test detects failures."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.parts.streams import StreamReader
from model import BusyError, GenerationError
from model.engine import TokenOutput
from tests.stress.soak import MemorySample, PendingRequest, Soak, memory_growth


class Tiny:
    """A stub engine that only has an image size."""

    model = type("Model", (), {"network": type("Network", (), {"image_size": 14})})


def new_soak() -> Soak:
    return Soak(Tiny(), None, max_length=256, stuck_s=0.05)  # type: ignore[arg-type]


def checked(steps: Any, tokens: int, **expected: bool) -> Soak:
    """Return a soak test that has checked one answer."""

    def ask(request: object) -> Iterator[TokenOutput]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield step

    soak, stream = new_soak(), StreamReader(ask, lambda: None)  # type: ignore[arg-type, return-value]
    stream.thread.join()
    soak.check(PendingRequest(stream, tokens, **expected))
    return soak


def test_a_complete_answer_is_counted() -> None:
    soak = checked([TokenOutput(5), TokenOutput(6, "length")], 2)
    assert soak.counts["answered"] == 1
    assert not soak.failures


@pytest.mark.parametrize(
    "steps",
    [
        [TokenOutput(5, "length")],
        [TokenOutput(5), TokenOutput(None, "stop")],
        [TokenOutput(5), GenerationError("no numbers")],
        [],
    ],
)
def test_an_incomplete_answer_is_a_failure(steps: list[Any]) -> None:
    assert len(checked(steps, 2).failures) == 1


def test_a_rejection_is_no_failure() -> None:
    soak = checked([BusyError("later")], 2)
    assert soak.counts["refused"] == 1
    assert not soak.failures


def test_silence_is_a_failure() -> None:
    released = threading.Event()

    def ask(request: object) -> Iterator[TokenOutput]:
        released.wait()
        yield TokenOutput(5, "length")

    soak, stream = new_soak(), StreamReader(ask, lambda: None)  # type: ignore[arg-type, return-value]
    soak.pending_requests.add(PendingRequest(stream, 1))
    soak.collect()
    assert not soak.failures
    stream.started -= 1
    soak.collect()
    released.set()
    assert "no activity" in soak.failures[0]


def test_growth_compares_the_last_third_with_the_one_before() -> None:
    def samples(*values: float) -> list[MemorySample]:
        return [MemorySample(0, value, 0, 0) for value in values]

    assert memory_growth(samples(1, 2, 9, 9, 9, 9), "process") == 0
    assert memory_growth(samples(1, 1, 2, 2, 5, 5), "process") == 3
    assert memory_growth(samples(1, 2), "process") == 0
