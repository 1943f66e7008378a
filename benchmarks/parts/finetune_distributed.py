"""Fine-tuning in several processes, each started by torchrun as a person would; the first writes what was measured.

This module is both sides: `DistributedRunner` starts it, and in the processes `main` measures.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import Source, add_model_arguments
from benchmarks.parts.finetune_ours import OurTraining, make_training
from benchmarks.parts.machine import ROOT
from finetune.distributed import close_distributed, exit_process
from model.command_line import ArgumentParser

SECONDS = 900  # that a launch may take


@dataclass(frozen=True)
class TrainingJob:
    """What processes are to train.

    Attributes:
        data: see `write_dataset`.
        length, batch_size, steps: see `OurTraining`.
        flags: of the program.
        ends: whether the training goes on to its end, which saves it, instead of being measured.
    """

    data: str
    length: int
    batch_size: int
    steps: int
    flags: list[str]
    runs_to_end: bool = False


class DistributedRunner:
    """Starts processes.

    Args:
        model: flags of `add_model_arguments`.
        processes: how many.
    """

    def __init__(self, model: list[str], processes: int) -> None:
        self.model = model
        self.processes = processes

    def run(self, launch: TrainingJob) -> dict[str, Any]:
        """Train; return what the first process wrote.

        Raises:
            RuntimeError: the processes failed.
        """
        out = Path(launch.data).parent / "launched.json"
        out.unlink(missing_ok=True)
        module = [
            "-m",
            "benchmarks.parts.finetune_distributed",
            "--launch",
            json.dumps(asdict(launch)),
            "--out",
            str(out),
        ]
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
        command = [sys.executable, *(several if self.processes > 1 else []), *module, *self.model]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=ROOT)
        if done.returncode != 0 or not out.is_file():
            sys.stderr.write(done.stderr)
            raise RuntimeError(first_error(done.stderr))
        return json.loads(out.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def first_error(stderr: str) -> str:
    """Return the line of the first error that processes have said, without torchrun's summary of it."""
    errors = [line for line in stderr.splitlines() if "Error" in line and "elastic" not in line]
    return errors[0][:200] if errors else "the processes failed"


def measure(source: Source, launch: TrainingJob) -> dict[str, Any]:
    """Measure steps in this process among the others."""
    ours = OurTraining(source, Path(launch.data), launch.length, launch.batch_size, launch.steps, launch.flags)
    spent, _ = ours.step_ms()
    return {"step_ms": spent, "samples_per_s": 1e3 * ours.rows / spent, "peak_gib": ours.peak_gib()[0]}


def train(source: Source, launch: TrainingJob) -> dict[str, Any]:
    """Train to the end; return where the run is, and its last held-out loss."""
    more = ["--batch-size", str(launch.batch_size), "--train-iters", str(launch.steps)]
    training = make_training(source, Path(launch.data), launch.length, [*launch.flags, *more])
    try:
        training.train()
    finally:
        training.close()
    return {"run": str(training.run.path), "loss": training.state.best_loss}


def main() -> None:
    """Do what the parent asks for."""
    parser = ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--launch", required=True, help="a Launch, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="file for the result")
    options = parser.parse_args()
    source, launch = Source(options), TrainingJob(**json.loads(options.launch))
    try:
        result = (train if launch.runs_to_end else measure)(source, launch)
        if int(os.environ.get("RANK", "0")) == 0:
            options.out.write_text(json.dumps(result), encoding="utf-8")
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.barrier()
    finally:
        close_distributed()
    exit_process(0)


if __name__ == "__main__":
    main()
