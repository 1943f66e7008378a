"""The log of a training: JSON lines, and the metrics that Weights & Biases gets."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune import progress
from finetune.evaluation import Score
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


def test_metrics_of_an_evaluation_go_wherever_the_loss_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    scalars: dict[str, float] = {}

    class FakeWriter:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars[name] = value

        def close(self) -> None:
            pass

    monkeypatch.setattr(progress, "open_wandb", lambda given: run)
    monkeypatch.setattr(progress, "open_tensorboard", lambda folder: FakeWriter())
    logger = TrainingLogger(tmp_path, 0, 2)
    logger.log_evaluation(1, Score(0.5, 0.25, [], {"chrf": 60.0, "pope_precision": math.nan}))
    logger.close()
    expected = {"valid_loss": 0.5, "valid_exact": 0.25, "valid_chrf": 60.0}
    assert run.metrics == [(1, expected)]
    assert scalars == expected
    (line,) = (tmp_path / LOG_NAME).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["valid_pope_precision"] is None
