"""A training that is killed at random moments and gone on with, beside one that nobody disturbed.

python -m tests.stress.crash_resume                          20 kills in short trainings of visualglm-tiny, some minutes
python -m tests.stress.crash_resume --kills 3 --steps 12

Every process is the program itself, killed by SIGKILL: at a random moment after its first step, at one of its whole
life, or as soon as a checkpoint begins to be written. After each kill every checkpoint there must hold, bit by bit,
what the undisturbed training saved at that step; no more than the steps of one interval may be lost; and every loss
recorded, before kills and after, must be the undisturbed one to the last bit. Prints a line for each kill and a
verdict, and fails where it is not kept.
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
POLL_S = 0.0005  # how often is looked whether a process has come so far
KILL_IN_SAVE_RATE, KILL_ANYTIME_RATE = (
    0.3,
    0.2,
)  # shares of the kills that wait for a checkpoint to be begun, and that wait for nothing
MAX_SAVE_DELAY_S = 0.02  # how much later than a checkpoint's beginning those come, at most
MAX_DELAY_FRACTION = (
    0.3  # of an undisturbed training's time, in which the others come after the first step of their process
)


@dataclass(frozen=True)
class TrainingCommand:
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

    def train_reference(self, save: Path) -> tuple[Path, float]:
        """Train to the end, keeping every checkpoint; return the run and the seconds that it took."""
        save.mkdir()
        started = time.perf_counter()
        subprocess.run(self.command(save, self.steps), check=True, stderr=subprocess.DEVNULL, env=one_thread())
        (run,) = save.iterdir()
        return run, time.perf_counter() - started


@dataclass
class Trial:
    """Trainings under kills.

    Attributes:
        short: the training.
        folder: for its runs.
        undisturbed: run of the one that nobody disturbed.
        life: seconds that it took.
        kills: made so far; those while a checkpoint was being written; steps lost by each.
        wrong: what was not as it should be.
    """

    short: TrainingCommand
    folder: Path
    reference: Path
    duration_s: float
    kills: int = 0
    during_save: int = 0
    lost: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run_with_kills(self, wanted: int, rng: random.Random) -> None:
        """Train again and again, until so many kills were made and the training that they fell into has ended."""
        number = 0
        while self.kills < wanted:
            number += 1
            save = self.folder / f"disturbed-{number}"
            save.mkdir()
            while self.kills < wanted and self.kill(save, rng):
                pass
            self.finish(save)

    def kill(self, save: Path, rng: random.Random) -> bool:
        """Start a process and kill it; return False where it ended before."""
        before, parts = log_position(save), partial_checkpoints(save)
        process = self.short.start(save)
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
        """Look at what a kill has left of a process that had recorded steps until `reached`, or none."""
        run = newest_run(save)
        saved = max([] if run is None else Run(run, 1).steps(), default=0)
        self.during_save += was_saving
        self.lost.append(max(0, reached - saved))
        if self.lost[-1] > self.short.interval:
            self.failures.append(f"kill {self.kills} lost {self.lost[-1]} steps")
        self.failures += [
            f"kill {self.kills} left another checkpoint of step {step}" for step in self.differing_checkpoints(save)
        ]
        note = "a checkpoint was being written" if was_saving else ""
        show(f"| {self.kills} | {seconds:.2f} | {reached or 'none'} | {saved} | {self.lost[-1]} | {note} |")

    def differing_checkpoints(self, save: Path) -> list[int]:
        """Return the steps whose checkpoints are broken, or not those of the undisturbed training."""
        run = newest_run(save)
        steps = [] if run is None else Run(run, 1).steps()
        return [step for step in steps if not same_checkpoint(run, self.reference, step)]

    def check_exit(self, status: int, stderr: str) -> None:
        """Note it where a process has failed."""
        if status != 0:
            self.failures.append(f"a training failed: {(stderr.splitlines() or [''])[-1]}")

    def finish(self, save: Path) -> None:
        """Let a training end, and compare it with the undisturbed one."""
        run = newest_run(save)
        if run is None or self.short.steps not in Run(run, 1).steps():
            process = self.short.start(save)
            _, stderr = process.communicate()
            self.check_exit(process.returncode, stderr)
        run, expected = newest_run(save), losses_of(self.reference)
        if run is None or losses_of(run).keys() != expected.keys() or self.differing_checkpoints(save):
            self.failures.append(f"{save.name} ended elsewhere")
        for path in save.iterdir():  # a start that was killed before its first checkpoint has left a run as well
            for step, losses in losses_of(path).items():
                if losses != expected[step]:
                    self.failures.append(f"step {step} of {save.name} had the losses {losses}, not {expected[step]}")


def one_thread() -> dict[str, str]:
    """Return the environment of a process, whose numbers must not depend on how many threads share the work."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait, or until a process ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def partial_checkpoints(save: Path) -> set[Path]:
    """Return what is there of checkpoints that are being written, or were when their process was killed."""
    return set(save.glob(f"*/{PARTIAL_PREFIX}*"))


def wait_until(process: "subprocess.Popen[str]", is_so: Callable[[], bool]) -> None:
    """Wait until something is so, or a process ends."""
    while process.poll() is None and not is_so():
        time.sleep(POLL_S)


def newest_run(save: Path) -> Path | None:
    """Return the newest run; their names hold the time."""
    return max((path for path in save.iterdir() if path.is_dir()), default=None) if save.is_dir() else None


def log_position(save: Path) -> tuple[int, int]:
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


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=min_int(1), default=20, help="to make (default %(default)s)")
    parser.add_argument("--steps", type=min_int(2), default=120, help="of a training (default %(default)s)")
    parser.add_argument("--interval", type=min_int(1), default=4, help="steps to a checkpoint (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Make the kills; return the exit status."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = TrainingCommand(write_dataset(folder), options.steps, options.interval)
        reference, duration_s = short.train_reference(folder / "undisturbed")
        trained = f"{options.steps} steps, a checkpoint every {options.interval}; undisturbed {duration_s:.1f} s"
        show(f"{describe_machine()}; {trained}\n")
        show("| kill | after s | last step recorded | last saved | steps lost | note |\n|---|---|---|---|---|---|")
        trial = Trial(short, folder, reference, duration_s)
        trial.run_with_kills(options.kills, random.Random(options.seed))
    verdict = "Failed: " + "; ".join(trial.failures) if trial.failures else "Passed"
    lost = f"{max(trial.lost)} at most of {options.interval} allowed, {sum(trial.lost) / trial.kills:.1f} in the mean"
    show(f"\n{verdict}. {trial.kills} kills, {trial.during_save} while a checkpoint was written; steps lost: {lost}.")
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(run_program(main))
