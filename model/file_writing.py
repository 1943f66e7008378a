"""Write files atomically, with the permissions that the umask grants."""

import os
import stat
import uuid
from pathlib import Path


def apply_umask(path: Path) -> None:
    """Give a file the permissions that the umask grants, after a library created it with mode 0600.

    The mode is copied from a probe file in the same directory, because the umask can only be read by setting it, which
    affects all threads of the process.

    Raises:
        OSError: the directory cannot be written, or the mode cannot be set.
    """
    probe = unused_name(path.parent, "mode-")
    probe.touch(exist_ok=False)
    try:
        granted_mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
    if stat.S_IMODE(path.stat().st_mode) != granted_mode:  # file systems without modes refuse to set one
        path.chmod(granted_mode)


def unused_name(directory: Path, prefix: str) -> Path:
    """Return a random path in `directory` that does not exist; nothing is created."""
    return directory / f"{prefix}{uuid.uuid4().hex[:12]}"


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file atomically, so that readers never see a partial file; a symbolic link is replaced."""
    write_temporary_text(path, text).replace(path)


def write_temporary_text(path: Path, text: str) -> Path:
    """Write text to a temporary file in the same directory; return its path for an atomic replace."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    fsync_file(part)
    return part


def fsync_file(file: Path) -> None:
    """Flush a file to disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
