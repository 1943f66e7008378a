"""Fine-tuning in several processes, started by torchrun as users do; rank 0 writes the measurement.

This module is both sides: `DistributedRunner` starts the processes, and `main` runs in them.
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

TIMEOUT_S = 900


@dataclass(frozen=True)
class TrainingJob:
    """A training job for several processes.

    Attributes:
        data: see `write_dataset`.
        length, batch_size, steps: see `OurTraining`.
        flags: flags of the training program.
        runs_to_end: train to the end and save, instead of measuring steps.
    """

    data: str
    length: int
    batch_size: int
    steps: int
    flags: list[str]
    runs_to_end: bool = False


class DistributedRunner:
    """Starts training processes.

    Args:
        model: flags of `add_model_arguments`.
        processes: number of processes.
    """

    def __init__(self, model: list[str], processes: int) -> None:
        self.model = model
        self.processes = processes

    def run(self, job: TrainingJob) -> dict[str, Any]:
        """Train; return the report of rank 0.

        Raises:
            RuntimeError: the processes failed.
        """
        out = Path(job.data).parent / "launched.json"
        out.unlink(missing_ok=True)
        module = [
            "-m",
            "benchmarks.parts.finetune_distributed",
            "--launch",
            json.dumps(asdict(job)),
            "--out",
            str(out),
        ]
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
        command = [sys.executable, *(several if self.processes > 1 else []), *module, *self.model]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, cwd=ROOT)
        if done.returncode != 0 or not out.is_file():
            sys.stderr.write(done.stderr)
            raise RuntimeError(first_error(done.stderr))
        return json.loads(out.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def first_error(stderr: str) -> str:
    """Return the line of the first error in the processes' output, without torchrun's summary."""
    errors = [line for line in stderr.splitlines() if "Error" in line and "elastic" not in line]
    return errors[0][:200] if errors else "the processes failed"


def measure(source: Source, job: TrainingJob) -> dict[str, Any]:
    """Measure steps in this process."""
    ours = OurTraining(source, Path(job.data), job.length, job.batch_size, job.steps, job.flags)
    spent, _ = ours.step_ms()
    return {"step_ms": spent, "samples_per_s": 1e3 * ours.rows / spent, "peak_gib": ours.peak_gib()[0]}


def train(source: Source, job: TrainingJob) -> dict[str, Any]:
    """Train to the end; return the path of the run and its last held-out loss."""
    more = ["--batch-size", str(job.batch_size), "--train-iters", str(job.steps)]
    training = make_training(source, Path(job.data), job.length, [*job.flags, *more])
    try:
        training.train()
    finally:
        training.close()
    return {"run": str(training.run.path), "loss": training.state.best_loss}


def main() -> None:
    """Run the job of the parent process."""
    parser = ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--launch", required=True, help="a TrainingJob as JSON")
    parser.add_argument("--out", type=Path, required=True, help="output file")
    options = parser.parse_args()
    source, job = Source(options), TrainingJob(**json.loads(options.launch))
    try:
        result = (train if job.runs_to_end else measure)(source, job)
        if int(os.environ.get("RANK", "0")) == 0:
            options.out.write_text(json.dumps(result), encoding="utf-8")
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.barrier()
    finally:
        close_distributed()
    exit_process(0)


if __name__ == "__main__":
    main()
