"""The log of a training: JSON lines, and the metrics that Weights & Biases gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune import progress
from finetune.progress import LOG_NAME, TrainingLogger


class FakeRun:
    """A run of Weights & Biases that records its metrics; it has no other methods than these."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.is_finished = False

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((step, metrics))

    def finish(self) -> None:
        self.is_finished = True


def test_metrics_are_written_and_sent_to_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    options: list[Any] = []
    monkeypatch.setattr(progress, "open_wandb", lambda given: options.append(given) or run)
    logger = TrainingLogger(tmp_path, 0, 2, wandb={"name": "a"})
    logger.log(1, loss=0.5, samples=[{"answer": "cat"}])
    logger.close()
    assert options == [{"name": "a"}]
    assert run.metrics == [(1, {"loss": 0.5})]
    assert run.is_finished
    (line,) = (tmp_path / LOG_NAME).read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"step": 1, "loss": 0.5, "samples": [{"answer": "cat"}]}
