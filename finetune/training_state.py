"""Read and write the state of a training and the manifest of a checkpoint."""

import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath

INTEGER_FIELDS = ("step", "examples", "step_size", "seed", "processes", "skipped", "worse")


@dataclass
class TrainingState:
    """The state of a training: the contents of a checkpoint's state.json.

    Attributes:
        step: number of optimizer steps made.
        examples: number of examples of the training data.
        step_size: examples per step, over all processes.
        seed: seed of the order of the examples.
        processes: number of processes.
        skipped: number of steps skipped because of float16 overflow.
        best_loss: lowest held-out loss; None before the first evaluation.
        worse: number of evaluations since the best one, as `count_evaluation` counts them.
        metric: name of the score that decides which evaluation is the best; None for the loss.
        best_score: highest such score; None before the first evaluation.
        train_hashes, valid_hashes: SHA-256 of each file of the training data and of the held-out data; empty in a
            checkpoint that an earlier version wrote.
    """

    step: int
    examples: int
    step_size: int
    seed: int
    processes: int
    skipped: int = 0
    best_loss: float | None = None
    worse: int = 0
    train_hashes: list[str] = field(default_factory=list)
    valid_hashes: list[str] = field(default_factory=list)
    metric: str | None = None
    best_score: float | None = None

    def best_numbers(self) -> dict[str, float]:
        """Return the lowest held-out loss and the highest score, by name, if there are any."""
        best = {"best_valid_loss": self.best_loss, f"best_valid_{self.metric}": self.best_score}
        return {name: value for name, value in best.items() if value is not None}

    def count_evaluation(self, loss: float, metric: str | None = None, score: float = math.nan) -> None:
        """Update the best values and the number of evaluations since the best one.

        Args:
            loss: the held-out loss; the lowest is the best one without a metric.
            metric: name of the score that decides instead; another one than before starts the count again.
            score: its value, the highest is the best one; NaN is not better than any.
        """
        if metric != self.metric:
            self.metric, self.best_score, self.worse = metric, None, 0
        is_better = self.best_loss is None or loss < self.best_loss
        if is_better:
            self.best_loss = loss
        if metric is not None:
            is_better = not math.isnan(score) and (self.best_score is None or score > self.best_score)
            if is_better:
                self.best_score = score
        self.worse = 0 if is_better else self.worse + 1


def parse_state(text: str) -> TrainingState:
    """Parse the JSON of a state.

    Raises:
        ValueError: the text is not the JSON of a state.
    """
    try:
        entries = json.loads(text)
        state = TrainingState(
            **{entry.name: entries[entry.name] for entry in fields(TrainingState) if entry.name in entries}
        )
    except (TypeError, RecursionError) as error:
        raise ValueError("entries are missing") from error
    if any(type(getattr(state, name)) is not int for name in INTEGER_FIELDS):
        raise ValueError("an entry is not an integer")
    for name in ("best_loss", "best_score"):
        if not isinstance(getattr(state, name), float | int | None):
            raise ValueError(f"{name} is not a number")
    if not isinstance(state.metric, str | None):
        raise ValueError("metric is not a name")
    for hashes in (state.train_hashes, state.valid_hashes):
        if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
            raise ValueError("the hashes are not a list of strings")
    return state


MANIFEST_NAME = "manifest.json"
FILES_KEY = "files"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_manifest(folder: Path) -> str:
    """Return the manifest of a directory: JSON with the SHA-256 of each of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        hashes = pool.map(hash_file, files)
        entries = {path.relative_to(folder).as_posix(): digest for path, digest in zip(files, hashes, strict=True)}
    return json.dumps({FILES_KEY: entries}, indent=2)


def find_changed_file(folder: Path) -> str | None:
    """Return how a directory differs from its manifest; None if all files are unchanged.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        entries = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))[FILES_KEY]
        names = {name: str(digest) for name, digest in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST_NAME} cannot be read"
    for name, digest in names.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return f"{MANIFEST_NAME} lists a file outside of the checkpoint"
        if not (folder / path).is_file():
            return f"{name} is missing"
        if hash_file(folder / path) != digest:
            return f"{name} has changed since it was written"
    return None
