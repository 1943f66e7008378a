"""Several seeds give a mean with an interval."""

import math

import pytest

from model.seeds import summarize_seeds, t_quantile


def test_three_seeds() -> None:
    summary = summarize_seeds([{"accuracy": 80.0}, {"accuracy": 82.0}, {"accuracy": 84.0}])["accuracy"]
    assert (summary.mean.value, summary.deviation) == (82, 2)
    # By hand: 4.303 * 2 / sqrt(3)
    assert summary.mean.high - 82 == pytest.approx(4.303 * 2 / math.sqrt(3))


def test_one_seed_has_no_interval() -> None:
    summary = summarize_seeds([{"accuracy": 80.0}])["accuracy"]
    assert summary.mean.value == 80
    assert math.isnan(summary.mean.low) and math.isnan(summary.deviation)


# Values of printed tables of the t-distribution.
@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (11, 2.201), (15, 2.131), (30, 2.042), (120, 1.980)])
def test_quantiles(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=0.002)
