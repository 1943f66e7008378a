"""The benchmark of the workbench measures all rows, and exchanged image embeddings exchange the answers."""

import pytest

from benchmarks.workbench import ROWS, WorkbenchBenchmark, make_rows
from model import SatChatModel


@pytest.mark.slow
def test_every_row_is_measured(tiny_model: SatChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.workbench.PAIRS", 3)
    benchmark = WorkbenchBenchmark(tiny_model, 2)
    found = {row.name: row.value(benchmark)[0] for row in make_rows()}
    assert found["exchange/zh"] == found["exchange/en"] == found["traced"] == 100
    assert found["time"] > 0
    assert {name for name in found if name.startswith("steer/")} == {"steer/zh-en", "steer/en-zh"}
    assert list(benchmark.directions) == ["layers.2.residual", "layers.3.residual"]
    assert all(len(vectors) == ROWS for vectors in benchmark.directions.values())
