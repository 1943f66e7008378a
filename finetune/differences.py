"""What differs now from a recorded training, and how the weights of two runs differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.digest import model_digest
from model.checkpoint.files import open_tensors
from model.checkpoint.sat import WEIGHTS_NAME

from .checkpoints import Run
from .config import TrainingConfig
from .data_digest import describe_change, digest_data
from .methods import open_base
from .record import DATA_KINDS, last_session, read_image_digests
from .software import describe_machine, read_versions


@dataclass(frozen=True)
class Differences:
    """What differs now from a recorded training, as texts.

    Attributes:
        sources: the data and the base model: the result will be another one.
        others: versions and the machine: the result may be another one.
    """

    sources: list[str]
    others: list[str]


def find_differences(record: Mapping[str, Any], config: TrainingConfig, run: Path) -> Differences:
    """Compare data, base model, versions and machine with a record.

    Raises:
        VisualGLMError: the data or the base model cannot be opened.
    """
    return Differences(
        [*compare_data(record, config, run), *compare_base(record, config)],
        [*compare_versions(record), *compare_machine(record, config)],
    )


def compare_data(record: Mapping[str, Any], config: TrainingConfig, run: Path) -> Iterator[str]:
    """Yield how each data file differs from the record."""
    images = read_image_digests(run)
    data = last_session(record)["changes"].get("data") or record["data"]
    for kind, name in DATA_KINDS.items():
        stored = images.get(kind, [])
        for number, path in enumerate(getattr(config, name)):
            single = stored[number] if number < len(stored) else {}
            change = describe_change(data[kind][number], single, digest_data(path))
            if change:
                yield change


def compare_base(record: Mapping[str, Any], config: TrainingConfig) -> Iterator[str]:
    """Yield how the base model differs from the record."""
    base = last_session(record)["changes"].get("base") or record["base"]
    if model_digest(open_base(str(config.from_pretrained))) != base["digest"]:
        yield f"the base model {config.from_pretrained}: its weights or its configuration have changed"


def compare_versions(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield each version that differs from the record."""
    before, now = last_session(record)["versions"], read_versions()
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield f"{name} {before.get(name, 'missing')} before, {now.get(name, 'missing')} now"


def compare_machine(record: Mapping[str, Any], config: TrainingConfig) -> Iterator[str]:
    """Yield the differences of processor, GPUs and device that may change the last bits of a result."""
    before = last_session(record)["machine"]
    device = before["device"] if config.device is None else config.device
    now = describe_machine(torch.device(device))
    if config.device is None and device.startswith("cuda") != torch.cuda.is_available():
        yield f"the device {device} before, {'a GPU' if torch.cuda.is_available() else 'cpu'} now"
    for name in ("processor", "gpus"):
        if before.get(name) != now[name]:
            yield f"{name} {before.get(name)} before, {now[name]} now"


def compare_weights(first: Path, second: Path) -> str:
    """Return a message about the difference between the last weights of two runs; "" if one has none."""
    paths = []
    for path in (first, second):
        steps = Run(path, 1).steps()
        paths.append(path / str(steps[-1] if steps else 0) / WEIGHTS_NAME)
    if not all(path.is_file() for path in paths) or paths[0].parent.name != paths[1].parent.name:
        return ""
    before, after = (open_tensors(path) for path in paths)
    if before.keys() != after.keys():
        return f"The weights of {first} and {second} have different names."
    differing = [name for name in before if not is_bit_equal(before[name], after[name])]
    if not differing:
        return f"All {len(after)} tensors equal those of {first}, bit by bit."
    largest = max(float((before[name].float() - after[name].float()).abs().max()) for name in differing)
    return f"{len(differing)} of {len(after)} tensors differ from those of {first}, by {largest:.2g} at most."


def is_bit_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
