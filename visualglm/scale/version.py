"""Tell whether two machines have the same version of the project."""

import hashlib
from pathlib import Path

from visualglm.cli import ROOT

PACKAGES = ("model", "visualglm")
LENGTH = 12  # hexadecimal digits; for people who compare two machines


def code_digest(root: Path = ROOT) -> str:
    """Return a digest of the names and contents of the project's Python files."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:LENGTH]
