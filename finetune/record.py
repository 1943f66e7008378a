"""The record of a run, record.json in its directory: how it was made, and what came out.

It is written when the training starts, and completed when it ends. A resumed run adds a session. `visualglm again`
reads it. Its entries:

    settings    the settings of `TrainingConfig`, as in the first session
    base        name and digest of the base model
    data        digests of the training data and of the held-out data, see finetune/data_digest.py
    sessions    one for each process that trained the run: time, command, versions, machine, processes, steps, status
    status      of the last session: running, complete, stopped (by a signal) or failed
    steps       number of steps made
    numbers     the last value of each logged number, the lowest held-out loss, the first metric's highest score
    seconds     time of all sessions
    repeats     the run that this one repeats

A process that was killed leaves the status "running". image_digests.json beside it has the digest of each image.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from model.checkpoint import Checkpoint
from model.checkpoint.digest import model_digest
from model.checkpoint.save import write_json
from model.errors import CheckpointError, SettingError

from .config import TrainingConfig
from .data_digest import DataDigest, digest_data, to_entry
from .distributed import DistributedContext
from .errors import TrainingError
from .recipe import plain_settings
from .run_log import read_run_log
from .software import describe_machine, read_versions

RECORD_NAME = "record.json"
IMAGES_NAME = "image_digests.json"
FORMAT = 1
DATA_KINDS = {"train": "train_data", "valid": "valid_data"}
# Settings that change neither the trained weights nor the numbers.
NEUTRAL_SETTINGS = (
    *("save", "experiment_name", "resume", "allow_changed_data", "keep", "num_workers", "summary_dir"),
    *("wandb", "wandb_project_name"),
)
# Settings that are recorded by their digests, and not by their names alone.
DIGESTED_SETTINGS = ("from_pretrained", *DATA_KINDS.values())
NOT_NUMBERS = ("lr", "left_s")  # of the log
Status = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True)
class Sources:
    """The data and the base model of a training.

    Attributes:
        base: name and digest of the base model.
        data: the digests of each file of the training data and of the held-out data.
    """

    base: dict[str, str]
    data: dict[str, list[DataDigest]]

    def entries(self) -> dict[str, Any]:
        """Return the entries of a record."""
        return {
            "base": self.base,
            "data": {kind: [to_entry(digest) for digest in digests] for kind, digests in self.data.items()},
        }

    def image_digests(self) -> dict[str, list[Mapping[str, str]]]:
        """Return the digests of single images, for each data file."""
        return {kind: [digest.image_digests for digest in digests] for kind, digests in self.data.items()}


def describe_sources(config: TrainingConfig, base: str, checkpoint: Checkpoint) -> Sources:
    """Return the digests of the data and of the base model.

    Raises:
        DataError: a data file cannot be read.
    """
    data = {kind: [digest_data(path) for path in getattr(config, name)] for kind, name in DATA_KINDS.items()}
    return Sources({"name": base, "digest": model_digest(checkpoint)}, data)


@dataclass
class RunRecord:
    """The record of a run that is being trained; only the main process has one.

    Attributes:
        run: the run's directory.
        content: the entries.
        started: when this session started, in seconds of `time.monotonic`.
    """

    run: Path
    content: dict[str, Any]
    started: float = field(default_factory=time.monotonic)

    def write(self) -> None:
        """Write the record atomically.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self.run / RECORD_NAME, self.content)

    @property
    def earlier_seconds(self) -> float:
        """Return the time of all sessions before this one; a process that was killed has not recorded its time."""
        return sum(each["seconds"] or 0.0 for each in self.content["sessions"][:-1])

    def finish(self, status: Status, step: int, best: Mapping[str, float]) -> str:
        """Complete the record with the numbers of the log; return an error message if it cannot be written, else "".

        Args:
            step: number of steps made.
            best: the best numbers of all evaluations, by name.
        """
        session = self.content["sessions"][-1]
        session.update(status=status, ended=now(), last_step=step, seconds=round(time.monotonic() - self.started, 1))
        numbers = {**read_numbers(self.run), **best}
        seconds = sum(each["seconds"] or 0.0 for each in self.content["sessions"])
        self.content.update(status=status, steps=step, numbers=numbers, seconds=round(seconds, 1))
        try:
            self.write()
        except OSError as error:
            return f"The record of the run cannot be written: {error}."
        return ""


def now() -> str:
    """Return the time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_numbers(run: Path) -> dict[str, float]:
    """Return the last finite value of each number in the log of a run; nothing if it cannot be read."""
    try:
        log = read_run_log(run)
    except SettingError:
        return {}
    return {name: points[-1][1] for name, points in log.numbers.items() if name not in NOT_NUMBERS}


def start_record(
    config: TrainingConfig, distributed: DistributedContext, run: Path, first_step: int, sources: Sources
) -> RunRecord:
    """Write the record of a new run, or add a session to a resumed run's record.

    Raises:
        TrainingError: it cannot be written.
    """
    settings = plain_settings(config)
    content: dict[str, Any] = {
        "format": FORMAT,
        "settings": settings,
        **sources.entries(),
        "sessions": [],
        "status": "running",
        "steps": first_step,
        "numbers": {},
        "seconds": 0.0,
    }
    session = {**describe_session(distributed, first_step), "changes": {}}
    if first_step and (before := read_earlier(run)) is not None:
        session["changes"] = describe_changes(before, content)
        content = {**before, "status": "running"}
    content["sessions"].append(session)
    record = RunRecord(run, content)
    try:
        write_json(run / IMAGES_NAME, sources.image_digests())
        record.write()
    except OSError as error:
        raise TrainingError(f"The record of the run {run} cannot be written: {error}.") from error
    return record


def describe_session(distributed: DistributedContext, first_step: int) -> dict[str, Any]:
    """Return the entries of a session that starts."""
    return {
        "status": "running",
        "started": now(),
        "ended": None,
        "seconds": None,
        "first_step": first_step,
        "last_step": None,
        "command": shlex.join(sys.argv),
        "directory": str(Path.cwd()),
        "processes": distributed.world_size,
        "versions": read_versions(),
        "machine": describe_machine(distributed.device),
    }


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, data and base model that a resumed run has changed since its start."""
    changes = {
        name: value
        for name, value in compared_settings(now["settings"]).items()
        if compared_settings(before["settings"]).get(name) != value
    }
    digests = {name: now[name] for name in ("data", "base") if comparable(before[name]) != comparable(now[name])}
    return {**changes, **digests}


def compared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine the result, without the data and the base model, which have digests."""
    left_out = (*NEUTRAL_SETTINGS, *DIGESTED_SETTINGS)
    return {name: value for name, value in settings.items() if name not in left_out}


def comparable(sources: Any) -> Any:
    """Return digests without the paths and names, which may change."""
    if isinstance(sources, Mapping):
        return {name: comparable(value) for name, value in sources.items() if name not in ("path", "name")}
    if isinstance(sources, Sequence) and not isinstance(sources, str):
        return [comparable(each) for each in sources]
    return sources


def read_earlier(run: Path) -> dict[str, Any] | None:
    """Return the record of a run; None if it has none that can be used, as a run of an earlier version."""
    try:
        return read_record(run)
    except CheckpointError:
        return None


def read_record(run: Path) -> dict[str, Any]:
    """Read the record of a run.

    Raises:
        CheckpointError: there is none, or it cannot be used.
    """
    path = run / RECORD_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "an earlier version trained it" if run.is_dir() else "there is no such directory"
        raise CheckpointError(f"{str(run)!r} has no {RECORD_NAME}: {reason}. Give the directory of a run.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not is_complete_record(content):
        raise CheckpointError(
            f"{str(path)!r} is not a record that this version can read. Use the version that trained the run."
        )
    return content


def is_complete_record(content: Mapping[str, Any]) -> bool:
    """Return whether a record has the entries that this module reads."""
    kinds = {"settings": dict, "base": dict, "data": dict, "sessions": list, "numbers": dict}
    return all(isinstance(content.get(name), kind) for name, kind in kinds.items()) and bool(content["sessions"])


def last_session(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the last session of a record."""
    session: dict[str, Any] = record["sessions"][-1]
    return session


def read_image_digests(run: Path) -> dict[str, list[dict[str, str]]]:
    """Return the digests of single images of a run's data; nothing if they are missing."""
    try:
        content = json.loads((run / IMAGES_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
