"""Open weight files and memory-map their tensors; diagnose damaged files in plain words.

Pickle files are loaded with `weights_only`: nothing in them is executed. Objects that training frameworks saved with
the weights of old fine-tunes (random states, loss scalers, settings) are replaced by inert objects, by name, so that
none of those packages is needed.
"""

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..file_writing import apply_umask
from ..tensors import LazyTensors, Tensors

# Packages whose objects a checkpoint may contain in addition to the weights.
INERT_PACKAGES = ("apex", "argparse", "bitsandbytes", "deepspeed", "numpy", "pathlib", "sat", "transformers")
RETRY_ADVICE = "Copy or download it again"
MAX_JSON_BYTES = 64 * 1024 * 1024  # the index of a model with a million tensors is smaller
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
LFS_START = b"version https://git-lfs"


class Inert:
    """Replaces an object of another package in a checkpoint; accepts any arguments and state, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@contextmanager
def translate_os_errors() -> Iterator[None]:
    """Convert OSError (no permission, a name too long, a disk failure) to CheckpointError."""
    try:
        yield
    except OSError as error:
        path = error.filename if error.filename is not None else "The disk"
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. Check its name and its permissions."
        ) from error


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Convert any error of reading a weight file to CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # pickle, zip and safetensors raise different exceptions
        reason = describe_damage(path) or f"cannot be read as weights: {describe_error(error)}. {RETRY_ADVICE}."
        raise CheckpointError(f"{path} {reason}") from error


def describe_error(error: Exception) -> str:
    """Describe a reader's error in one line; torch's own message would advise executing the file's code."""
    wanted = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if wanted is not None:  # in a bare pickle, whose globals cannot be listed before loading
        return f"it requires {wanted[1]}, in the format of torch < 1.6. Save only its tensors where it was written"
    lines = str(error).splitlines()
    if isinstance(error, pickle.UnpicklingError | KeyError | EOFError) or not lines:
        return "it contains something else, or is damaged"
    return lines[0].rstrip(".")


def describe_damage(path: Path) -> str | None:
    """Describe a damaged file, or a file of another kind than weights, with advice; None if nothing is recognized."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which does not exist. {RETRY_ADVICE}."
    if not path.is_file():
        return "does not exist."
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}. Check its permissions."
    if not start:
        return f"cannot be read as weights: it is empty. {RETRY_ADVICE}."
    if start.startswith(LFS_START):
        return (
            f"cannot be read: it is a Git-LFS pointer of {size} bytes, which only refers to the file. "
            "Run `git lfs pull` in its directory, or download it with `hf download`."
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "cannot be read: it is a web page, an error or login page saved by a download. Download it again."
    if start.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        return "is a compressed archive, not weights. Unpack it and give the directory that it contains."
    if path.suffix == ".safetensors" and not start.startswith(b"PK"):
        return describe_truncation(path, size)
    return describe_archive(path, start)


def describe_archive(path: Path, start: bytes) -> str | None:
    """Describe the damage of a file that torch.save did not write, or did not finish; None if there is none."""
    if not start.startswith(b"PK"):
        looks_safe = start[8:10] == b'{"'
        return "contains safetensors: rename it to end with .safetensors." if looks_safe else None
    if not zipfile.is_zipfile(path):
        return f"cannot be read as weights: it is truncated, its end is missing. {RETRY_ADVICE}."
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"cannot be read as weights: it is damaged. {RETRY_ADVICE}."
    if not any(name.endswith("/data.pkl") for name in names):
        return "is a zip archive, not weights. Unpack it and give the directory that it contains."
    if path.suffix == ".safetensors":
        return "was written by torch.save, not as safetensors. Rename it to pytorch_model.bin."
    return None


def describe_truncation(path: Path, size: int) -> str | None:
    """Describe a .safetensors file that is truncated or contains something else; None if neither is found."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size > 9 and file.read(1) != b"{":
            return f"does not contain safetensors. {RETRY_ADVICE}."
        file.seek(8)
        if length > MAX_HEADER_BYTES and length + 8 <= size:
            return f"does not contain safetensors. {RETRY_ADVICE}."
        if length + 8 > size:
            return f"cannot be read as weights: it is truncated to {size} bytes. {RETRY_ADVICE}."
        try:
            header = json.loads(file.read(length))
            end = 8 + length + max(entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry)
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
            return None
    if end <= size:
        return None
    return f"cannot be read as weights: it is truncated, with {size} of {end} bytes. {RETRY_ADVICE}."


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read, or does not contain a JSON object.
    """
    try:
        if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES:,} bytes")
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows add a byte-order mark
    except RecursionError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: it is nested too deeply. {RETRY_ADVICE}.") from error
    except (OSError, ValueError) as error:
        reason = describe_damage(path) or f"cannot be read as JSON: {error}. {RETRY_ADVICE}."
        raise CheckpointError(f"{path} {reason}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should contain a JSON object, not {type(value).__name__}.")
    return value


def load_pickled(path: Path) -> dict[str, Any]:
    """Load a file of torch.save, memory-mapped: tensors are read when they are used, and nothing is executed.

    Raises:
        CheckpointError: the file does not exist, is damaged, or requires code that weights do not need.
    """
    with translate_read_errors(path):
        # torch.save < 1.6 wrote a bare pickle, which cannot be memory-mapped.
        mapped = zipfile.is_zipfile(path)
        stand_ins = inert_globals(path) if mapped else []
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} should contain tensors by name, not {type(content).__name__}.")
    return dict(content)


def inert_globals(path: Path) -> list[Any]:
    """Return an inert replacement for each class or function, other than torch's own, that a pickle file names.

    Raises:
        CheckpointError: the file names one of a package that is not in INERT_PACKAGES.
    """
    wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    refused = [name for name in wanted if name.split(".")[0] not in INERT_PACKAGES]
    if refused:
        raise CheckpointError(
            f"{path} would execute {', '.join(refused[:3])}, which weights never need; it was not opened. "
            "Get the file from a source that you trust, as safetensors if available."
        )
    return [(Inert, name) for name in wanted]


def check_tensor_storage(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """Return a tensor of a pickle file; raise CheckpointError if the file does not store all its elements.

    A malicious file may describe a tensor as sparse, without data, or as one element expanded to any size.
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {name} is not a plain tensor with all its elements in the file. Get the file again."
        )
    return tensor


def open_tensors(path: Path) -> Tensors:
    """Open a safetensors file or a pickled state dict; each tensor is read on access."""
    if path.suffix != ".safetensors":
        content = load_pickled(path).items()
        return {
            name: check_tensor_storage(name, value, path) for name, value in content if isinstance(value, torch.Tensor)
        }
    from safetensors import safe_open

    with translate_read_errors(path):
        file = safe_open(path, framework="pt")
        return LazyTensors({name: partial(file.get_tensor, name) for name in file.keys()})  # noqa: SIM118  (no dict)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` to the safetensors file `path`, with the file mode that the umask allows.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{error}") from error
    apply_umask(path)


def check_disk_space(directory: Path, needed: int | None, otherwise: str) -> None:
    """Raise CheckpointError if the disk has less than `needed` bytes free; `otherwise` is the message's advice."""
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed is not None and free < needed:
        raise CheckpointError(
            f"{existing} has {describe_size(free)} free, {describe_size(needed)} are needed. {otherwise}"
        )


def describe_size(size: float) -> str:
    """Format a size in bytes as GB, or as MB below 1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
