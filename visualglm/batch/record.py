"""Keep a record of a run next to its output, so that only the same run can continue it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from model import DEMO, SettingError
from model.file_writing import write_text_atomically

from .output import OutputError
from .rows import RowSource
from .tasks import Settings

FORMAT = 1  # of the record
LABELS = {
    "model": "the model",
    "questions": "the questions",
    "sampling": "the sampling parameters",
    "precision": "how the model is loaded",
    "language": "the language of the prompts",
    "columns": "the columns",
    "format": "the version of this program",
}


def record_path(output: Path) -> Path:
    """Return the path of the record of an output."""
    return output.with_name(f"{output.name}.run.json")


def make_record(settings: Settings, rows: RowSource) -> dict[str, Any]:
    """Return the record of a run: all that its answers depend on.

    Raises:
        VisualGLMError: the model cannot be found or read.
    """
    from model.checkpoint import open_checkpoint
    from model.checkpoint.digest import model_digest
    from model.checkpoint.save import GENERATION_NAME

    checkpoint = open_checkpoint(settings.model, base=settings.loading.get("base"))
    loading = {name: value for name, value in settings.loading.items() if name not in ("device", "base")}
    return {
        "format": FORMAT,
        "program": program_version(),
        "model": model_digest(checkpoint),
        "questions": rows.questions,
        "sampling": sampling_parameters(checkpoint.find_folder(GENERATION_NAME), settings),
        "precision": {**loading, "hf": settings.hf},
        "language": settings.language,
        "columns": {"image": rows.columns.image, "question": rows.columns.question, "id": rows.columns.id},
        "input": None if rows.has_keys else file_digest(rows.path),
    }


def check_record(output: Path, record: Mapping[str, Any], rows: RowSource, *, is_started: bool) -> None:
    """Compare the record of this run with an earlier one, then write it.

    Args:
        is_started: whether the output holds answers already.

    Raises:
        SettingError: the output belongs to another run.
        OutputError: the record cannot be read or written.
    """
    path = record_path(output)
    if is_started:
        compare_records(output, read_record(path), record, rows)
    try:
        write_text_atomically(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written ({error.strerror}). Check the permissions.") from error


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of an output that holds answers.

    Raises:
        SettingError: there is none.
        OutputError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingError(
            f"There are answers in the output, but not their record {str(path)!r}, so that it is unknown how they were "
            "made. Give another --output."
        ) from error
    except (OSError, ValueError) as error:
        raise OutputError(f"The record {str(path)!r} cannot be read ({error}). Give another --output.") from error
    return record if isinstance(record, dict) else {}


def compare_records(output: Path, before: Mapping[str, Any], now: Mapping[str, Any], rows: RowSource) -> None:
    """Raise SettingError, which names the differences, if an output belongs to another run."""
    differing = [
        f"{label}{describe_change(before.get(name), now[name])}"
        for name, label in LABELS.items()
        if before.get(name) != now[name]
    ]
    if not (before.get("input") is None or now["input"] is None or is_extended(before["input"], rows.path)):
        differing.append("the rows of the input, which have no ids")
    if differing:
        raise SettingError(
            f"The answers in {str(output)!r} are from another run. Different: {'; '.join(differing)}. Repeat the "
            "former command to go on with it, or give another --output."
        )


def describe_change(before: Any, now: Any) -> str:
    """Return the names and values that differ in two mappings, in parentheses; "" for other values."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return ""
    changes = [
        f"{name} {before.get(name)} before, {now.get(name)} now"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    return f" ({', '.join(changes)})"


def program_version() -> str:
    """Return the version of the installed project, "" for a checkout."""
    try:
        return version("visualglm")
    except PackageNotFoundError:
        return ""


def sampling_parameters(directory: Path, settings: Settings) -> dict[str, Any]:
    """Return the sampling parameters of a model in `directory` under the settings, as JSON values."""
    from model.loading import read_sampling

    config = DEMO.replace(**read_sampling(directory)).replace(**settings.sampling)
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def file_digest(path: Path, size: int | None = None) -> dict[str, Any]:
    """Return size and digest of the first `size` bytes of a file, or of all."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    total = left
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    return {"bytes": total, "sha256": digest.hexdigest()}


def is_extended(before: Mapping[str, Any], path: Path) -> bool:
    """Return whether a file begins with the bytes that it had before; rows may have been appended."""
    return path.stat().st_size >= before["bytes"] and file_digest(path, before["bytes"]) == before
