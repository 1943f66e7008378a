"""Identify the model's files and the project's version, which are the same on all nodes of one deployment."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from model.checkpoint.resolve import resolve
from visualglm.cli import ROOT

CONTENT_BYTES = 1024 * 1024  # larger files are identified by their size
PACKAGES = ("model", "visualglm")


def model_identity(name: str) -> str:
    """Return a hash of the names, sizes and small files of the model called `name` on this machine.

    Raises:
        CheckpointError: the model is not found.
    """
    path = resolve(name)
    return hash_files([path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()))


def program_identity() -> str:
    """Return a hash of the project's Python files on this machine."""
    return hash_files(one for package in PACKAGES for one in sorted((ROOT / package).rglob("*.py")))


def hash_files(paths: "Iterator[Path] | list[Path]") -> str:
    """Return a hash of files: names and sizes, and the content of small ones."""
    total = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        total.update(json.dumps([path.name, size]).encode())
        if size <= CONTENT_BYTES:
            total.update(path.read_bytes())
    return total.hexdigest()
