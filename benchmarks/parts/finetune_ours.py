"""Measures our fine-tuning in its own training loop: the model, data, optimizer and steps of finetune_visualglm.py."""

import json
import statistics
import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.full_size import Source, random_checkpoint
from finetune.arguments import parse_arguments
from finetune.methods import choose_precision
from finetune.preparation import prepare
from finetune.trainer import Trainer

IMAGES, IMAGE_SIZE = 16, 256
WARM_UP = 6  # steps in which every image occurs, kernels are chosen and memory is allocated
SYNC_CHECKED = WARM_UP - 1  # step in which GPU synchronizations are recorded, by PyTorch's warnings
SYNC_WARNING = "synchronizing CUDA operation"
# Longer than the maximum length, so that every example is truncated to exactly that length.
QUESTION, ANSWER = "图片里有什么？", "图片里有三个物体。" * 400


class MeasurementDoneError(Exception):
    """All measured steps are done."""


class StepTimer:
    """Replaces the logger of the training loop, and records the time of each step.

    Args:
        device: device whose memory is measured.
        steps: number of measured steps, after the warm-up.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device = device
        self.count = WARM_UP + steps
        self.times: list[float] = []
        self.losses: list[float] = []

    def step(self, tokens: float) -> None:
        """Record that a step is done; the loop has already waited for it.

        Raises:
            MeasurementDoneError: it was the last measured step.
        """
        self.times.append(time.perf_counter())
        if self.device.type == "cuda" and len(self.times) in (SYNC_CHECKED - 1, SYNC_CHECKED):
            torch.cuda.set_sync_debug_mode("warn" if len(self.times) < SYNC_CHECKED else "default")
        if len(self.times) == WARM_UP and self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if len(self.times) == self.count:
            raise MeasurementDoneError

    def log_progress(self, step: int, loss: float, lr: float) -> None:
        """Record a loss."""
        self.losses.append(loss)

    def milliseconds(self) -> float:
        """Return the median step time."""
        times = self.times[WARM_UP - 1 :]
        return statistics.median(later - sooner for sooner, later in pairwise(times)) * 1e3

    def peak(self) -> float:
        """Return the peak memory of the measured steps in bytes, with weights; 0 on a CPU."""
        return float(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else 0.0


def write_dataset(folder: Path, seed: int = 0) -> Path:
    """Write training data of random images with overlong answers; return the path of the file."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"img": f"{number}.png", "prompt": QUESTION, "label": ANSWER})
    file = folder / "dataset.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file


def make_training(source: Source, data: Path, length: int, flags: Sequence[str]) -> Trainer:
    """Prepare a training run by these flags, as the program does; the model may have random weights."""
    given = ["--from_pretrained", source.name, "--device", str(source.device), "--train-data", str(data)]
    given += ["--max-length", str(length), "--save", str(data.parent / "runs"), "--eval-answers", "0"]
    options = parse_arguments([*given, *flags])
    if not source.is_random:
        return prepare(options)

    def open_random(_: Any) -> Any:
        dtype, _notice = choose_precision(options, source.device, source.config)
        # Each process creates the weights on its own GPU, which is selected by now.
        chosen_device = (
            torch.device("cuda", torch.cuda.current_device()) if source.device.type == "cuda" else source.device
        )
        return random_checkpoint(source.config, chosen_device, dtype)

    return prepare(options, open_random)


def describe_memory_in_use(device: torch.device) -> str:
    """Describe GPU memory that is in use before the backend is created; there should be none."""
    taken = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    return f"{taken / 2**30:.3g} GiB of it were in use before" if taken > 2**28 else ""


class OurTraining:
    """A training run whose steps are measured once for all rows.

    Args:
        source: source of the model.
        data: see `write_dataset`.
        length: tokens per example.
        batch_size: examples per step and process.
        steps: number of measured steps.
        flags: flags of the training program.
    """

    def __init__(
        self, source: Source, data: Path, length: int, batch_size: int, steps: int, flags: Sequence[str]
    ) -> None:
        self.before = describe_memory_in_use(source.device)
        last = WARM_UP + steps + 1  # the loop saves at its last step, which is never reached
        more = ["--batch-size", str(batch_size), "--train-iters", str(last), "--save-interval", str(2 * last)]
        self.training = make_training(source, data, length, [*flags, *more])
        if self.training.logger is not None:
            self.training.logger.close()
        self.timer = StepTimer(self.training.distributed.device, steps)
        self.training.logger = self.timer  # type: ignore[assignment]
        self.waits: list[warnings.WarningMessage] = []
        self.rows = batch_size * self.training.distributed.world_size
        self.tokens = self.rows * length

    def run(self) -> StepTimer:
        """Run the steps, once; return the timer."""
        if not self.timer.times:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._go()
            self.waits = [warning for warning in caught if SYNC_WARNING in str(warning.message)]
        return self.timer

    def _go(self) -> None:
        try:
            self.training.train()
        except MeasurementDoneError:
            return
        raise RuntimeError("The training ended before its steps were measured.")

    def step_ms(self) -> tuple[float, str]:
        """Return milliseconds per step; the note has tokens/s and the lines that synchronize with the GPU."""
        spent = self.run().milliseconds()
        lines = ", ".join(sorted({f"{Path(wait.filename).name}:{wait.lineno}" for wait in self.waits}))
        waits = f"; synchronizes at {lines}" if lines else ""
        return spent, f"{1e3 * self.tokens / spent:,.0f} tokens/s{waits}"

    def peak_gib(self) -> tuple[float, str]:
        """Return the peak memory in GiB; the note reports memory in use before."""
        return self.run().peak() / 2**30, self.before

    def peak_gb(self) -> tuple[float, str]:
        """Return the peak memory in GB (10^9 bytes); the note reports memory in use before."""
        return self.run().peak() / 1e9, self.before
