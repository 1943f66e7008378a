"""A run's directory: its configuration, and its newest checkpoints, each there as a whole or not at all.

checkpoints/finetune-visualglm-20240131-120000/
    model_config.json           the model with what was added, and the name of its base
    latest                      300
    300/weights.safetensors     what was trained
    300/state.json              where the training is
    300/optimizer.pt            its optimiser, or deepspeed/ with a part for each process
    log.jsonl                   what was recorded on the way
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.sat import CONFIG_NAME, LATEST_NAME, WEIGHTS_NAME
from model.checkpoint.save import write_json
from model.checkpoint.tensor_file import write_tensors
from model.errors import CheckpointError
from model.file_mode import unused_name

from .errors import TrainingError
from .optimise import Optimiser
from .processes import Processes

STATE_NAME = "state.json"
PART = ".part-"


@dataclass
class State:
    """Where a training is.

    Attributes:
        step: optimiser steps that were made.
        examples: in the data, and in a step, which decide what comes next.
        step_size: see `examples`.
        seed: of the order.
        processes: that trained together.
        skipped: steps without room in float16.
        best_loss: lowest held-out loss; None before the first evaluation.
        worse: evaluations since then.
    """

    step: int
    examples: int
    step_size: int
    seed: int
    processes: int
    skipped: int = 0
    best_loss: float | None = None
    worse: int = 0


class Run:
    """A run's directory.

    Args:
        path: the directory.
        keep: how many checkpoints stay.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.keep = keep

    def steps(self) -> list[int]:
        """Return the steps that there are complete checkpoints of, in order."""
        found = (folder for folder in self.path.iterdir() if folder.name.isdigit())
        return sorted(int(folder.name) for folder in found if (folder / STATE_NAME).is_file())

    def folder(self, step: int) -> Path:
        """Return the directory of a step's checkpoint."""
        return self.path / str(step)

    def read_state(self, step: int) -> State:
        """Read where the training was."""
        return State(**json.loads((self.folder(step) / STATE_NAME).read_text(encoding="utf-8")))

    def save(
        self, state: State, tensors: Mapping[str, torch.Tensor], optimiser: Optimiser, processes: Processes
    ) -> None:
        """Write a checkpoint; every process calls it, and the first writes what is not the optimiser's.

        Args:
            tensors: what the first process is to write; empty for the others.

        Raises:
            TrainingError: it could not be written, and nothing is left of it.
        """
        part = processes.share(self._new_part() if processes.is_first else None)
        try:
            with processes.together():
                write_part(part, state, tensors, optimiser, processes.is_first)
            if processes.is_first:
                self._finish(Path(part), state.step)
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint of step {state.step} could not be written to {self.path} ({error}). Nothing of it is "
                "left. Make room or look at the permissions."
            ) from error
        finally:
            if processes.is_first and part is not None:
                shutil.rmtree(part, ignore_errors=True)

    def _new_part(self) -> str | None:
        try:
            part = unused_name(self.path, PART)
            part.mkdir()
            return str(part)
        except OSError:
            return None

    def _finish(self, part: Path, step: int) -> None:
        """Give a complete checkpoint its name, and remove the oldest beyond those to keep."""
        if self.folder(step).exists():
            shutil.rmtree(self.folder(step))
        part.rename(self.folder(step))
        write_text(self.path / LATEST_NAME, str(step))
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder(old), ignore_errors=True)

    def clear_parts(self) -> None:
        """Remove what a training that was killed had begun to write."""
        for part in self.path.glob(f"{PART}*"):
            shutil.rmtree(part, ignore_errors=True)


def write_part(
    part: str | None, state: State, tensors: Mapping[str, torch.Tensor], optimiser: Optimiser, is_first: bool
) -> None:
    """Write the files of a checkpoint into the directory `part`.

    Raises:
        OSError: a file cannot be written; None instead of a directory says that it could not be made.
    """
    if part is None:
        raise OSError("no directory could be made there")
    folder = Path(part)
    optimiser.save(folder)
    if is_first:
        write_tensors(folder / WEIGHTS_NAME, tensors)
        write_text(folder / STATE_NAME, json.dumps(asdict(state), indent=2))
    for file in folder.rglob("*"):
        if file.is_file():
            flush(file)


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    flush(part)
    part.replace(path)


def flush(file: Path) -> None:
    """Have the disk keep a file."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def make_run(save: Path, experiment: str, config: Mapping[str, Any], keep: int) -> Run:
    """Make the directory of a new run with its configuration.

    Raises:
        TrainingError: it cannot be written.
    """
    stem = f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    try:
        save.mkdir(parents=True, exist_ok=True)
        while True:
            path = save / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                number += 1
        write_json(path / CONFIG_NAME, config)
    except OSError as error:
        raise TrainingError(f"No run can be written to {save} ({error}). Give another place with --save.") from error
    return Run(path, keep)


def find_run(save: Path, experiment: str, name: str, keep: int) -> Run:
    """Find the run to go on with: the one called `name`, or the newest of the experiment that has a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if name:
        places = [Path(name), save / name]
    else:
        places = sorted(save.glob(f"{experiment}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for place in places:
        if (place / CONFIG_NAME).is_file() and Run(place, keep).steps():
            return Run(place, keep)
    looked = ", ".join(str(place) for place in places) or f"{save} for {experiment}-*"
    raise CheckpointError(
        f"There is no run to resume: looked at {looked}. A run is a directory with {CONFIG_NAME} and at least one "
        "checkpoint. Start anew without --resume."
    )
