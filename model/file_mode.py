"""Give files the access mode that the umask grants, as `open` does.

Imports nothing of this package, so that it can be copied into an exported model.
"""

import stat
import uuid
from pathlib import Path

__all__ = ["apply_umask", "unused_name"]


def apply_umask(path: Path) -> None:
    """Give a file the permissions that the umask grants, after a library created it with mode 0600.

    The mode is that of a probe file in the same directory: the umask itself can only be read by setting it, for all
    threads of the process.

    Raises:
        OSError: the directory cannot be written, or the mode cannot be set.
    """
    probe = unused_name(path.parent, "mode-")
    probe.touch(exist_ok=False)
    try:
        wanted = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
    if stat.S_IMODE(path.stat().st_mode) != wanted:  # file systems without modes refuse to set one
        path.chmod(wanted)


def unused_name(directory: Path, prefix: str) -> Path:
    """Return a random path in `directory` that does not exist; nothing is created."""
    return directory / f"{prefix}{uuid.uuid4().hex[:12]}"
