"""The directory of a run: its configuration, its lock, and its newest checkpoints, which are written atomically.

checkpoints/finetune-visualglm-20240131-120000/
    model_config.json           configuration of the model and its adapter, and the name of the base model
    latest                      the step of the newest checkpoint: 300
    300/weights.safetensors     the trained weights
    300/state.json              the state of the training
    300/optimizer.pt            the state of the optimizer; with deepspeed the directory deepspeed/
    300/manifest.json           the SHA-256 of each of these files
    lock                        locked by the training that writes the run
    log.jsonl                   the logged metrics
    curves.svg, report.html     their curves, and the report, written at each checkpoint and at the end
"""

import errno
import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from model.checkpoint.files import load_pickled, open_tensors, write_tensors
from model.checkpoint.sat import LATEST_NAME, WEIGHTS_NAME
from model.errors import CheckpointError
from model.file_writing import fsync_file, unused_name, write_temporary_text, write_text_atomically

from .distributed import DistributedContext
from .errors import TrainingError
from .optimizer import STATE_NAME as OPTIMIZER_NAME, Optimizer
from .training_state import MANIFEST_NAME, TrainingState, find_changed_file, make_manifest, parse_state

LOCK_NAME = "lock"
IN_USE = (errno.EACCES, errno.EAGAIN)
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The lock of a run, which keeps a second training from writing into its directory.

    It is held until it is closed or the process ends, even if the process is killed. It is a POSIX record lock
    (`fcntl.lockf`), which worker processes forked by the owner do not inherit, as they would with `flock`.

    Args:
        run: the run's directory.

    Raises:
        TrainingError: another process holds the lock, or the lock file cannot be opened.
    """

    def __init__(self, run: Path) -> None:
        try:
            self.descriptor: int | None = os.open(run / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise TrainingError(
                f"The run {run} cannot be locked ({error.strerror}). Check the permissions of its directory."
            ) from error
        try:
            self._lock(run, self.descriptor)
        except BaseException:
            self.close()
            raise

    def _lock(self, run: Path, descriptor: int) -> None:
        try:
            import fcntl
        except ImportError:  # not available on Windows
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNSUPPORTED:  # the file system has no locks
                return
            if error.errno not in IN_USE:
                raise TrainingError(f"The run {run} cannot be locked ({error.strerror}).") from error
            owner = "".join(filter(str.isprintable, os.pread(descriptor, 200, 0).decode("utf-8", "replace")))
            raise TrainingError(
                f"Another training is using the run {run} ({owner or 'its process is unknown'}). Wait until it ends, "
                "stop it, or start a new run without --resume."
            ) from error
        with suppress(OSError):  # on a full disk the lock works without its owner's name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def close(self) -> None:
        """Release the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


STATE_NAME = "state.json"
PARTIAL_PREFIX = ".part-"
STEP = re.compile(r"0|[1-9][0-9]{0,17}")  # name of a checkpoint's directory
DAMAGED_PREFIX = "damaged-"


class Run:
    """The directory of a run.

    Args:
        path: the directory.
        keep: number of checkpoints to keep.

    Attributes:
        lock: the lock; None before the run is open, and on processes other than the main process.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.keep = keep
        self.lock: RunLock | None = None

    def directory_steps(self) -> list[int]:
        """Return the steps of all checkpoint directories, complete or not, in ascending order."""
        return sorted(int(path.name) for path in self.path.iterdir() if STEP.fullmatch(path.name) and path.is_dir())

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in ascending order."""
        return [step for step in self.directory_steps() if (self.folder(step) / STATE_NAME).is_file()]

    def folder(self, step: int) -> Path:
        """Return the directory of a step's checkpoint."""
        return self.path / str(step)

    def read_state(self, step: int) -> TrainingState:
        """Read the training state of a step's checkpoint.

        Raises:
            OSError: the file cannot be read.
            ValueError: its contents are not the state of this step.
        """
        state = parse_state((self.folder(step) / STATE_NAME).read_text(encoding="utf-8"))
        if state.step != step:
            raise ValueError(f"it is the state of step {state.step}")
        return state

    def find_damage(self, step: int) -> str | None:
        """Return a description of the damage of a step's checkpoint; None if it is intact."""
        folder = self.folder(step)
        try:
            if (folder / MANIFEST_NAME).exists():
                changed = find_changed_file(folder)
                if changed is not None:
                    return changed
            else:  # written by an earlier version
                open_tensors(folder / WEIGHTS_NAME)
                if (folder / OPTIMIZER_NAME).exists():
                    load_pickled(folder / OPTIMIZER_NAME)
            self.read_state(step)
        except (OSError, CheckpointError) as error:
            return str(error)
        except ValueError as error:
            return f"{STATE_NAME} cannot be used: {error}"
        return None

    def find_intact(self) -> tuple[int, dict[int, str]]:
        """Return the step of the newest intact checkpoint, and the damage of each newer one.

        Raises:
            TrainingError: no checkpoint is intact.
        """
        damages: dict[int, str] = {}
        for step in reversed(self.directory_steps()):
            damage = self.find_damage(step)
            if damage is None:
                return step, damages
            damages[step] = damage
        found = "".join(f"\n  step {step}: {damage}" for step, damage in damages.items())
        raise TrainingError(
            f"The run {self.path} has no intact checkpoint:{found}\nChoose another run with --resume RUN, or start a "
            "new one without --resume."
        )

    def rename_damaged(self, step: int) -> Path:
        """Rename the directory of a damaged checkpoint, so that it is not loaded; return the new path.

        Raises:
            OSError: the directory cannot be renamed.
        """
        path, number = self.path / f"{DAMAGED_PREFIX}{step}", 1
        while path.exists():
            number += 1
            path = self.path / f"{DAMAGED_PREFIX}{step}-{number}"
        return self.folder(step).rename(path)

    def write_latest(self, step: int) -> None:
        """Write a step into the file `latest`, which names the checkpoint to load.

        Raises:
            OSError: the file cannot be written.
        """
        write_text_atomically(self.path / LATEST_NAME, str(step))

    def save(
        self,
        state: TrainingState,
        tensors: Mapping[str, torch.Tensor],
        optimizer: Optimizer,
        distributed: DistributedContext,
    ) -> None:
        """Write a checkpoint; every process has to call it, and rank 0 writes all but the optimizer's files.

        Args:
            state: the state of the training.
            tensors: the weights to write; empty on ranks other than 0.
            optimizer: the optimizer.
            distributed: rank and world size.

        Raises:
            TrainingError: the checkpoint could not be written; its files have been removed.
        """
        partial = distributed.broadcast(self._make_partial() if distributed.is_main_process else None)
        try:
            with distributed.raise_on_all_ranks():
                write_checkpoint(partial, state, tensors, optimizer, distributed.is_main_process)
            if distributed.is_main_process:
                write_text_atomically(Path(partial) / MANIFEST_NAME, make_manifest(Path(partial)))
                self._commit(Path(partial), state.step)
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint of step {state.step} could not be written to {self.path} ({error}) and has "
                "been removed. Free disk space or check the permissions."
            ) from error
        finally:
            if distributed.is_main_process and partial is not None:
                shutil.rmtree(partial, ignore_errors=True)

    def _make_partial(self) -> str | None:
        try:
            partial = unused_name(self.path, PARTIAL_PREFIX)
            partial.mkdir()
            return str(partial)
        except OSError:
            return None

    def _commit(self, partial: Path, step: int) -> None:
        """Rename a complete checkpoint to its final name, update `latest`, and remove the oldest checkpoints."""
        if self.folder(step).exists():
            shutil.rmtree(self.folder(step))
        # Written before the checkpoint gets its name, since writing may fail.
        latest = write_temporary_text(self.path / LATEST_NAME, str(step))
        partial.rename(self.folder(step))
        latest.replace(self.path / LATEST_NAME)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder(old), ignore_errors=True)

    def describe(self, saved: int, last: int, is_complete: bool) -> str:
        """Return a message about a run that is saved up to step `saved`, with the command to chat with it."""
        advice = f"Chat with it: {chat_command(self.path)}"
        if is_complete:
            return f"The run is {self.path}. {advice}"
        return f"The run {self.path} is saved up to step {saved} of {last}; --resume continues it. {advice}"

    def close(self) -> None:
        """Release the lock of the run."""
        if self.lock is not None:
            self.lock.close()

    def remove_partial(self) -> None:
        """Remove the partially written checkpoints of a training that was killed."""
        for partial in self.path.glob(f"{PARTIAL_PREFIX}*"):
            shutil.rmtree(partial, ignore_errors=True)


def chat_command(run: Path) -> str:
    """Return the command to chat with a run; it works in any directory."""
    script = Path(__file__).absolute().parents[1] / "cli_demo.py"
    program = [str(script)] if script.is_file() else ["-m", "visualglm", "chat"]  # a wheel does not contain the script
    return shlex.join([sys.executable, *program, "--from_pretrained", str(run.absolute())])


def write_checkpoint(
    partial: str | None,
    state: TrainingState,
    tensors: Mapping[str, torch.Tensor],
    optimizer: Optimizer,
    is_main_process: bool,
) -> None:
    """Write the files of a checkpoint into the directory `partial`.

    Raises:
        OSError: a file cannot be written, or `partial` is None because the directory could not be created.
    """
    if partial is None:
        raise OSError("no directory could be created there")
    folder = Path(partial)
    optimizer.save(folder)
    if is_main_process:
        write_tensors(folder / WEIGHTS_NAME, tensors)
        write_text_atomically(folder / STATE_NAME, json.dumps(asdict(state), indent=2))
    for file in folder.rglob("*"):
        if file.is_file():
            fsync_file(file)
