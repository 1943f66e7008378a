"""The manifest of a checkpoint: the SHA-256 of each of its files, which shows damage before anything is loaded."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

MANIFEST_NAME = "manifest.json"
FILES_KEY = "files"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_manifest(folder: Path) -> str:
    """Return the text of the manifest of all files in a directory."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing does not hold Python's lock
        hashes = pool.map(hash_file, files)
        entries = {path.relative_to(folder).as_posix(): digest for path, digest in zip(files, hashes, strict=True)}
    return json.dumps({FILES_KEY: entries}, indent=2)


def find_changed_file(folder: Path) -> str | None:
    """Return what differs from the manifest of a directory; None if all of its files are as they were written.

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
            return f"{MANIFEST_NAME} names a file outside of the checkpoint"
        if not (folder / path).is_file():
            return f"{name} is missing"
        if hash_file(folder / path) != digest:
            return f"{name} is not as it was written"
    return None
