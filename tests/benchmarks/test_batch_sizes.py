"""The benchmark of batch sizes: in float32 no answer changes, and a changed one is counted."""

from benchmarks.batch_sizes import BatchSizes
from benchmarks.parts.table import at_least, at_most
from model import SatChatModel


def test_answers_that_differ_are_counted(tiny_model: SatChatModel) -> None:
    benchmark = BatchSizes(tiny_model, count=4, tokens=6)
    assert benchmark.differ(3) == (0.0, "0 of 4")
    benchmark.alone[2] = benchmark.alone[2][:-1]
    assert benchmark.differ(2) == (25.0, "1 of 4")


def test_a_measurement_of_zero_meets_an_upper_bound() -> None:
    assert at_most(2.0).ratio(0.0) > 1
    assert at_most(2.0).ratio(4.0) == 0.5
    assert at_least(2.0).ratio(0.0) == 0
