"""A short training in a process of its own, the moments to kill it, and what can be said of its run afterwards."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import EMBEDDED_MODEL
from benchmarks.parts.machine import ROOT
from finetune.checkpoints import PARTIAL_PREFIX, Run
from finetune.optimizer import STATE_NAME
from finetune.progress import LOG_NAME
from model.checkpoint.files import open_tensors
from model.checkpoint.sat import WEIGHTS_NAME

SCRIPT = ROOT / "finetune" / "finetune_visualglm.py"
LENGTH, BATCH = 72, 2
POLL_S = 0.0005  # how often is looked whether a process has come so far


@dataclass(frozen=True)
class Short:
    """A training.

    Attributes:
        data: its file.
        steps, interval: in all, and between checkpoints.
    """

    data: Path
    steps: int
    interval: int

    def command(self, save: Path, keep: int = 2) -> list[str]:
        """Return the command line of a training that begins, or goes on where there is a checkpoint."""
        given = ["--from_pretrained", EMBEDDED_MODEL, "--device", "cpu", "--use_lora", "--lora_dropout", "0.1"]
        given += ["--train-data", str(self.data), "--max-length", str(LENGTH), "--lr", "1e-3", "--num-workers", "0"]
        given += ["--batch-size", str(BATCH), "--train-iters", str(self.steps), "--log-interval", "1"]
        given += ["--save-interval", str(self.interval), "--keep", str(keep), "--save", str(save)]
        run = newest_run(save)
        goes_on = run is not None and Run(run, keep).steps()
        return [sys.executable, str(SCRIPT), *given, *(["--resume"] if goes_on else [])]

    def start(self, save: Path) -> "subprocess.Popen[str]":
        """Start it, or go on with it."""
        command = self.command(save)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=one_thread())

    def train_undisturbed(self, save: Path) -> tuple[Path, float]:
        """Train to the end, keeping every checkpoint; return the run and the seconds that it took."""
        save.mkdir()
        started = time.perf_counter()
        subprocess.run(self.command(save, self.steps), check=True, stderr=subprocess.DEVNULL, env=one_thread())
        (run,) = save.iterdir()
        return run, time.perf_counter() - started


def one_thread() -> dict[str, str]:
    """Return the environment of a process, whose numbers must not depend on how many threads share the work."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait, or until a process ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def parts_of(save: Path) -> set[Path]:
    """Return what is there of checkpoints that are being written, or were when their process was killed."""
    return set(save.glob(f"*/{PARTIAL_PREFIX}*"))


def wait_until(process: "subprocess.Popen[str]", is_so: Callable[[], bool]) -> None:
    """Wait until something is so, or a process ends."""
    while process.poll() is None and not is_so():
        time.sleep(POLL_S)


def newest_run(save: Path) -> Path | None:
    """Return the newest run; their names hold the time."""
    return max((path for path in save.iterdir() if path.is_dir()), default=None) if save.is_dir() else None


def records_of(save: Path) -> tuple[int, int]:
    """Return how many records all runs have, and the step of the newest run's last one."""
    logs = sorted(save.glob(f"*/{LOG_NAME}"))
    # A line without its end is being written.
    lines = [
        line for log in logs for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
    ]
    return len(lines), int(json.loads(lines[-1])["step"]) if lines else 0


def losses_of(run: Path) -> dict[int, set[float]]:
    """Return the losses recorded of each step: one, or as many as it was made and came out different."""
    losses: dict[int, set[float]] = {}
    log = run / LOG_NAME
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        record = json.loads(line)
        losses.setdefault(record["step"], set()).add(record["loss"])
    return losses


def same_checkpoint(run: Path | None, other: Path, step: int) -> bool:
    """Whether the checkpoints of a step are whole, and hold the same weights and optimiser bit by bit."""
    if run is None:
        return False
    try:
        ours, theirs = (read_checkpoint(path / str(step)) for path in (run, other))
    except Exception:  # whatever a broken file makes its reader say
        return False
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Return all numbers of a checkpoint."""
    state: dict[str, Any] = torch.load(folder / STATE_NAME, weights_only=True)
    moments = state["adam"]["state"]
    numbers = {f"{name} of {place}": tensor for place, held in moments.items() for name, tensor in held.items()}
    return {**numbers, **dict(open_tensors(folder / WEIGHTS_NAME).items())}
