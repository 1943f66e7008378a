"""A training that is killed at random moments and gone on with, beside one that nobody disturbed.

python -m tests.stress.faults                          20 kills in short trainings of visualglm-tiny, some minutes
python -m tests.stress.faults --kills 3 --steps 12

Every process is the program itself, killed by SIGKILL: at a random moment after its first step, at one of its whole
life, or as soon as a checkpoint begins to be written. After each kill every checkpoint there must hold, bit by bit,
what the undisturbed training saved at that step; no more than the steps of one interval may be lost; and every loss
recorded, before kills and after, must be the undisturbed one to the last bit. Prints a line for each kill and a
verdict, and fails where it is not kept.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parts.finetune_subject import write_data
from benchmarks.parts.machine import at_least, describe_machine
from benchmarks.parts.table import show
from finetune.checkpoints import Run
from model.command_line import ArgumentParser, run_program
from tests.stress.killed import Short, losses_of, newest_run, parts_of, records_of, same_checkpoint, wait, wait_until

SAVING, STARTING = 0.3, 0.2  # shares of the kills that wait for a checkpoint to be begun, and that wait for nothing
LATE_S = 0.02  # how much later than a checkpoint's beginning those come, at most
SHARE = 0.3  # of an undisturbed training's time, in which the others come after the first step of their process


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

    short: Short
    folder: Path
    undisturbed: Path
    life: float
    kills: int = 0
    in_saving: int = 0
    lost: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def disturb(self, wanted: int, chance: random.Random) -> None:
        """Train again and again, until so many kills were made and the training that they fell into has ended."""
        number = 0
        while self.kills < wanted:
            number += 1
            save = self.folder / f"disturbed-{number}"
            save.mkdir()
            while self.kills < wanted and self.kill(save, chance):
                pass
            self.finish(save)

    def kill(self, save: Path, chance: random.Random) -> bool:
        """Start a process and kill it; return False where it ended before."""
        before, parts = records_of(save), parts_of(save)
        process = self.short.start(save)
        started = time.perf_counter()
        kind = chance.random()
        if kind < SAVING:
            wait_until(process, lambda: bool(parts_of(save) - parts))
            wait(process, chance.random() * LATE_S)
        elif kind < SAVING + STARTING:
            wait(process, chance.random() * self.life)
        else:
            wait_until(process, lambda: records_of(save) != before)
            wait(process, chance.random() * SHARE * self.life)
        if process.poll() is not None:
            self.check_exit(process.returncode, process.communicate()[1])
            return False
        process.kill()
        process.communicate()
        self.kills += 1
        seconds, after = time.perf_counter() - started, records_of(save)
        self.look(save, seconds, 0 if after == before else after[1], bool(parts_of(save) - parts))
        return True

    def look(self, save: Path, seconds: float, reached: int, was_saving: bool) -> None:
        """Look at what a kill has left of a process that had recorded steps until `reached`, or none."""
        run = newest_run(save)
        saved = max([] if run is None else Run(run, 1).steps(), default=0)
        self.in_saving += was_saving
        self.lost.append(max(0, reached - saved))
        if self.lost[-1] > self.short.interval:
            self.wrong.append(f"kill {self.kills} lost {self.lost[-1]} steps")
        self.wrong += [f"kill {self.kills} left another checkpoint of step {step}" for step in self.differing(save)]
        note = "a checkpoint was being written" if was_saving else ""
        show(f"| {self.kills} | {seconds:.2f} | {reached or 'none'} | {saved} | {self.lost[-1]} | {note} |")

    def differing(self, save: Path) -> list[int]:
        """Return the steps whose checkpoints are broken, or not those of the undisturbed training."""
        run = newest_run(save)
        steps = [] if run is None else Run(run, 1).steps()
        return [step for step in steps if not same_checkpoint(run, self.undisturbed, step)]

    def check_exit(self, status: int, said: str) -> None:
        """Note it where a process has failed."""
        if status != 0:
            self.wrong.append(f"a training failed: {(said.splitlines() or [''])[-1]}")

    def finish(self, save: Path) -> None:
        """Let a training end, and compare it with the undisturbed one."""
        run = newest_run(save)
        if run is None or self.short.steps not in Run(run, 1).steps():
            process = self.short.start(save)
            _, said = process.communicate()
            self.check_exit(process.returncode, said)
        run, expected = newest_run(save), losses_of(self.undisturbed)
        if run is None or losses_of(run).keys() != expected.keys() or self.differing(save):
            self.wrong.append(f"{save.name} ended elsewhere")
        for path in save.iterdir():  # a start that was killed before its first checkpoint has left a run as well
            for step, losses in losses_of(path).items():
                if losses != expected[step]:
                    self.wrong.append(f"step {step} of {save.name} had the losses {losses}, not {expected[step]}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=at_least(1), default=20, help="to make (default %(default)s)")
    parser.add_argument("--steps", type=at_least(2), default=120, help="of a training (default %(default)s)")
    parser.add_argument("--interval", type=at_least(1), default=4, help="steps to a checkpoint (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Make the kills; return the exit status."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = Short(write_data(folder), options.steps, options.interval)
        undisturbed, life = short.train_undisturbed(folder / "undisturbed")
        trained = f"{options.steps} steps, a checkpoint every {options.interval}; undisturbed {life:.1f} s"
        show(f"{describe_machine()}; {trained}\n")
        show("| kill | after s | last step recorded | last saved | steps lost | note |\n|---|---|---|---|---|---|")
        trial = Trial(short, folder, undisturbed, life)
        trial.disturb(options.kills, random.Random(options.seed))
    verdict = "Failed: " + "; ".join(trial.wrong) if trial.wrong else "Passed"
    lost = f"{max(trial.lost)} at most of {options.interval} allowed, {sum(trial.lost) / trial.kills:.1f} in the mean"
    show(f"\n{verdict}. {trial.kills} kills, {trial.in_saving} while a checkpoint was written; steps lost: {lost}.")
    return 1 if trial.wrong else 0


if __name__ == "__main__":
    sys.exit(run_program(main))
