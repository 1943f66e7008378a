"""Kill a training run at random moments and resume it; compare it with an uninterrupted reference run.

python -m tests.stress.crash_resume                          20 kills in short runs of visualglm-tiny, some minutes
python -m tests.stress.crash_resume --kills 3 --steps 12

Every process runs the training program, and is killed by SIGKILL: at a random moment after its first step, at a random
moment of its lifetime, or while it writes a checkpoint. After each kill, every checkpoint must be bit-identical to that
of the reference run at the same step; at most one save interval of steps may be lost; and every logged loss, before and
after kills, must equal that of the reference run exactly. Prints a line for each kill and a verdict; fails if a
condition is violated.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import EMBEDDED_MODEL
from benchmarks.parts.finetune_ours import write_dataset
from benchmarks.parts.machine import ROOT, describe_machine, min_int
from benchmarks.parts.table import show
from finetune.checkpoints import PARTIAL_PREFIX, Run
from finetune.optimizer import STATE_NAME
from finetune.progress import LOG_NAME
from model.checkpoint.files import open_tensors
from model.checkpoint.sat import WEIGHTS_NAME
from model.command_line import ArgumentParser, run_program

SCRIPT = ROOT / "finetune" / "finetune_visualglm.py"
LENGTH, BATCH = 72, 2
POLL_S = 0.0005  # polling interval
KILL_IN_SAVE_RATE, KILL_ANYTIME_RATE = 0.3, 0.2  # shares of kills during a save, and at any time
MAX_SAVE_DELAY_S = 0.02  # maximum delay of a kill after a save starts
MAX_DELAY_FRACTION = 0.3  # maximum delay of a kill after the first step, relative to the reference duration


@dataclass(frozen=True)
class TrainingCommand:
    """The command of a short training run, and how to start it.

    Attributes:
        data: path of the training data.
        steps, interval: number of steps, and steps between checkpoints.
    """

    data: Path
    steps: int
    interval: int

    def command(self, save: Path, keep: int = 2) -> list[str]:
        """Return the command line; it resumes if the run has a checkpoint."""
        given = ["--from_pretrained", EMBEDDED_MODEL, "--device", "cpu", "--use_lora", "--lora_dropout", "0.1"]
        given += ["--train-data", str(self.data), "--max-length", str(LENGTH), "--lr", "1e-3", "--num-workers", "0"]
        given += ["--batch-size", str(BATCH), "--train-iters", str(self.steps), "--log-interval", "1"]
        given += ["--save-interval", str(self.interval), "--keep", str(keep), "--save", str(save)]
        run = newest_run(save)
        has_checkpoint = run is not None and Run(run, keep).steps()
        return [sys.executable, str(SCRIPT), *given, *(["--resume"] if has_checkpoint else [])]

    def start(self, save: Path) -> "subprocess.Popen[str]":
        """Start or resume the training."""
        command = self.command(save)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=one_thread())

    def train_reference(self, save: Path) -> tuple[Path, float]:
        """Train without interruption, keeping every checkpoint; return the run and its duration."""
        save.mkdir()
        started = time.perf_counter()
        subprocess.run(self.command(save, self.steps), check=True, stderr=subprocess.DEVNULL, env=one_thread())
        (run,) = save.iterdir()
        return run, time.perf_counter() - started


@dataclass
class Trial:
    """Training runs under kills.

    Attributes:
        training: the training command.
        folder: folder for the runs.
        reference: the uninterrupted run.
        duration_s: duration of the reference run.
        kills, during_save: number of kills so far, and of kills while a checkpoint was being written.
        lost: steps lost by each kill.
        failures: violated conditions.
    """

    training: TrainingCommand
    folder: Path
    reference: Path
    duration_s: float
    kills: int = 0
    during_save: int = 0
    lost: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run_with_kills(self, wanted: int, rng: random.Random) -> None:
        """Train repeatedly until `wanted` kills have been made and the last run has finished."""
        number = 0
        while self.kills < wanted:
            number += 1
            save = self.folder / f"killed-{number}"
            save.mkdir()
            while self.kills < wanted and self.kill(save, rng):
                pass
            self.finish(save)

    def kill(self, save: Path, rng: random.Random) -> bool:
        """Start a process and kill it; return False if it finished before."""
        before, parts = log_position(save), partial_checkpoints(save)
        process = self.training.start(save)
        started = time.perf_counter()
        kind = rng.random()
        if kind < KILL_IN_SAVE_RATE:
            wait_until(process, lambda: bool(partial_checkpoints(save) - parts))
            wait(process, rng.random() * MAX_SAVE_DELAY_S)
        elif kind < KILL_IN_SAVE_RATE + KILL_ANYTIME_RATE:
            wait(process, rng.random() * self.duration_s)
        else:
            wait_until(process, lambda: log_position(save) != before)
            wait(process, rng.random() * MAX_DELAY_FRACTION * self.duration_s)
        if process.poll() is not None:
            self.check_exit(process.returncode, process.communicate()[1])
            return False
        process.kill()
        process.communicate()
        self.kills += 1
        seconds, after = time.perf_counter() - started, log_position(save)
        self.check_after_kill(
            save, seconds, 0 if after == before else after[1], bool(partial_checkpoints(save) - parts)
        )
        return True

    def check_after_kill(self, save: Path, seconds: float, reached: int, was_saving: bool) -> None:
        """Check the run after a kill; `reached` is the last logged step of the process, or 0."""
        run = newest_run(save)
        saved = max([] if run is None else Run(run, 1).steps(), default=0)
        self.during_save += was_saving
        self.lost.append(max(0, reached - saved))
        if self.lost[-1] > self.training.interval:
            self.failures.append(f"kill {self.kills} lost {self.lost[-1]} steps")
        self.failures += [
            f"kill {self.kills} left a wrong checkpoint of step {step}" for step in self.differing_checkpoints(save)
        ]
        note = "a checkpoint was being written" if was_saving else ""
        show(f"| {self.kills} | {seconds:.2f} | {reached or 'none'} | {saved} | {self.lost[-1]} | {note} |")

    def differing_checkpoints(self, save: Path) -> list[int]:
        """Return the steps whose checkpoints are broken or differ from the reference run."""
        run = newest_run(save)
        steps = [] if run is None else Run(run, 1).steps()
        return [step for step in steps if not same_checkpoint(run, self.reference, step)]

    def check_exit(self, status: int, stderr: str) -> None:
        """Record a failure if a process failed."""
        if status != 0:
            self.failures.append(f"a process failed: {(stderr.splitlines() or [''])[-1]}")

    def finish(self, save: Path) -> None:
        """Finish a run, and compare it with the reference run."""
        run = newest_run(save)
        if run is None or self.training.steps not in Run(run, 1).steps():
            process = self.training.start(save)
            _, stderr = process.communicate()
            self.check_exit(process.returncode, stderr)
        run, expected = newest_run(save), losses_of(self.reference)
        if run is None or losses_of(run).keys() != expected.keys() or self.differing_checkpoints(save):
            self.failures.append(f"{save.name} has other steps or checkpoints at its end")
        for path in save.iterdir():  # a process that was killed before its first checkpoint left a run, too
            for step, losses in losses_of(path).items():
                if losses != expected[step]:
                    self.failures.append(f"step {step} of {save.name} has the losses {losses}, not {expected[step]}")


def one_thread() -> dict[str, str]:
    """Return an environment with one OpenMP thread: results must not depend on the thread count."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait for some seconds, or until a process ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def partial_checkpoints(save: Path) -> set[Path]:
    """Return all checkpoints that are incomplete: being written, or left by a killed process."""
    return set(save.glob(f"*/{PARTIAL_PREFIX}*"))


def wait_until(process: "subprocess.Popen[str]", is_so: Callable[[], bool]) -> None:
    """Wait until a condition holds or a process ends."""
    while process.poll() is None and not is_so():
        time.sleep(POLL_S)


def newest_run(save: Path) -> Path | None:
    """Return the newest run; the names of runs contain the time."""
    return max((path for path in save.iterdir() if path.is_dir()), default=None) if save.is_dir() else None


def log_position(save: Path) -> tuple[int, int]:
    """Return the number of log records of all runs, and the step of the newest run's last one."""
    logs = sorted(save.glob(f"*/{LOG_NAME}"))
    # An incomplete line is still being written.
    lines = [
        line for log in logs for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
    ]
    return len(lines), int(json.loads(lines[-1])["step"]) if lines else 0


def losses_of(run: Path) -> dict[int, set[float]]:
    """Return the distinct losses logged for each step."""
    losses: dict[int, set[float]] = {}
    log = run / LOG_NAME
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        record = json.loads(line)
        losses.setdefault(record["step"], set()).add(record["loss"])
    return losses


def same_checkpoint(run: Path | None, other: Path, step: int) -> bool:
    """Check that the checkpoints of a step are complete and have bit-identical weights and optimizer states."""
    if run is None:
        return False
    try:
        ours, theirs = (read_checkpoint(path / str(step)) for path in (run, other))
    except Exception:  # a broken file may raise anything
        return False
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    state: dict[str, Any] = torch.load(folder / STATE_NAME, weights_only=True)
    moments = state["adam"]["state"]
    numbers = {f"{name} of {index}": tensor for index, state in moments.items() for name, tensor in state.items()}
    return {**numbers, **dict(open_tensors(folder / WEIGHTS_NAME).items())}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=min_int(1), default=20, help="number of kills (default %(default)s)")
    parser.add_argument("--steps", type=min_int(2), default=120, help="steps of a run (default %(default)s)")
    parser.add_argument(
        "--interval", type=min_int(1), default=4, help="steps between checkpoints (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills (default %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Make the kills; return the exit status."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = TrainingCommand(write_dataset(folder), options.steps, options.interval)
        reference, duration_s = training.train_reference(folder / "reference")
        trained = f"{options.steps} steps, a checkpoint every {options.interval}; uninterrupted {duration_s:.1f} s"
        show(f"{describe_machine()}; {trained}\n")
        show("| kill | after s | last logged step | last saved step | steps lost | note |\n|---|---|---|---|---|---|")
        trial = Trial(training, folder, reference, duration_s)
        trial.run_with_kills(options.kills, random.Random(options.seed))
    verdict = "Failed: " + "; ".join(trial.failures) if trial.failures else "Passed"
    lost = f"{max(trial.lost)} at most of {options.interval} allowed, {sum(trial.lost) / trial.kills:.1f} on average"
    show(f"\n{verdict}. {trial.kills} kills, {trial.during_save} while a checkpoint was written; steps lost: {lost}.")
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(run_program(main))
