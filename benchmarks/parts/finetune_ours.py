"""Our fine-tuning, measured as its own loop makes it: the model, data, optimiser and steps of finetune_visualglm.py."""

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
WARM_UP = 6  # steps, in which every picture is seen, kernels are chosen and memory is taken
WATCHED = WARM_UP - 1  # the step in which waits for a GPU are counted, by PyTorch's warnings
WAIT = "synchronizing CUDA operation"
# Longer than any row may be, so that each is cut to exactly the length asked for.
QUESTION, ANSWER = "图片里有什么？", "图片里有三个物体。" * 400


class MeasurementDoneError(Exception):
    """As many steps were made as are measured."""


class StepTimer:
    """Stands where the loop has its recorder, and takes the time of each step that is done.

    Args:
        device: whose memory is counted.
        steps: to measure after the warm-up.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device = device
        self.count = WARM_UP + steps
        self.times: list[float] = []
        self.losses: list[float] = []

    def step(self, tokens: float) -> None:
        """Note that a step is done; it is the loop that has waited for it.

        Raises:
            EnoughError: it was the last to be measured.
        """
        self.times.append(time.perf_counter())
        if self.device.type == "cuda" and len(self.times) in (WATCHED - 1, WATCHED):
            torch.cuda.set_sync_debug_mode("warn" if len(self.times) < WATCHED else "default")
        if len(self.times) == WARM_UP and self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if len(self.times) == self.count:
            raise MeasurementDoneError

    def log_progress(self, step: int, loss: float, lr: float) -> None:
        """Keep a loss."""
        self.losses.append(loss)

    def milliseconds(self) -> float:
        """Return the median time of a step."""
        times = self.times[WARM_UP - 1 :]
        return statistics.median(later - sooner for sooner, later in pairwise(times)) * 1e3

    def peak(self) -> float:
        """Return the most bytes that were taken in the steps measured, weights and all; 0 where nothing counts them."""
        return float(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else 0.0


def write_dataset(folder: Path, seed: int = 0) -> Path:
    """Write training data of random pictures, each with an answer that is too long; return its file."""
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
    """Prepare a training as the program would from these flags; the model may be one of random weights."""
    given = ["--from_pretrained", source.name, "--device", str(source.device), "--train-data", str(data)]
    given += ["--max-length", str(length), "--save", str(data.parent / "runs"), "--eval-answers", "0"]
    options = parse_arguments([*given, *flags])
    if not source.is_random:
        return prepare(options)

    def open_random(_: Any) -> Any:
        dtype, _notice = choose_precision(options, source.device, source.config)
        # Of several processes each draws on its own GPU, which it has chosen by now.
        chosen_device = (
            torch.device("cuda", torch.cuda.current_device()) if source.device.type == "cuda" else source.device
        )
        return random_checkpoint(source.config, chosen_device, dtype)

    return prepare(options, open_random)


def describe_memory_in_use(device: torch.device) -> str:
    """Say what memory is taken that should not be, since each subject has the device to itself."""
    taken = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    return f"{taken / 2**30:.3g} GiB of it were taken before" if taken > 2**28 else ""


class OurTraining:
    """A training whose steps are measured once, for all rows that ask.

    Args:
        source: of the model.
        data: see `write_dataset`.
        length: tokens of each row.
        batch_size: rows of a step.
        steps: to measure.
        flags: of the program.
    """

    def __init__(
        self, source: Source, data: Path, length: int, batch_size: int, steps: int, flags: Sequence[str]
    ) -> None:
        self.before = describe_memory_in_use(source.device)
        last = WARM_UP + steps + 1  # the loop saves at its last step, which is not made
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
        """Return the clock after the steps were made."""
        if not self.timer.times:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._go()
            self.waits = [warning for warning in caught if WAIT in str(warning.message)]
        return self.timer

    def _go(self) -> None:
        try:
            self.training.train()
        except MeasurementDoneError:
            return
        raise RuntimeError("The training ended before its steps were measured.")

    def step_ms(self) -> tuple[float, str]:
        """Return milliseconds of a step; and the tokens a second, and where a step waits for a GPU."""
        spent = self.run().milliseconds()
        places = ", ".join(sorted({f"{Path(wait.filename).name}:{wait.lineno}" for wait in self.waits}))
        waits = f"; waits for the GPU at {places}" if places else ""
        return spent, f"{1e3 * self.tokens / spent:,.0f} tokens/s{waits}"

    def peak_gib(self) -> tuple[float, str]:
        """Return the most memory in GiB, and what of it was taken before."""
        return self.run().peak() / 2**30, self.before

    def peak_gb(self) -> tuple[float, str]:
        """Return the same in GB, thousand millions of bytes."""
        return self.run().peak() / 1e9, self.before
