"""A directory that is there when all that belongs in it is written, and not before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..environment import expand_home
from ..errors import CheckpointError
from ..file_mode import unused_name
from .resolve import check_disk_space

LONGEST = 60  # characters of a name, which with a suffix stay below 255 bytes in any script


@contextmanager
def new_directory(destination: Path, size: int) -> Iterator[Path]:
    """Give a directory to write into, which becomes `destination` when all is written, and vanishes otherwise."""
    target = Path(os.path.realpath(expand_home(destination)))
    part = None
    try:
        refuse_taken(target)
        check_disk_space(target.parent, size, "Free some space. Give a destination on another disk.")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = unused_name(target.parent, f"{target.name[:LONGEST]}.part-")
        part.mkdir()
        yield part
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise CheckpointError(
            f"{destination} could not be written ({error}). Nothing is left of it. "
            "Make room, look at the permissions, or give another destination."
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def refuse_taken(target: Path) -> None:
    """Raise CheckpointError unless `target` is not there or an empty directory that can be replaced."""
    if not target.exists():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise CheckpointError(f"{target} is there already. Give a directory that is not, or an empty one.")
    if target == Path.cwd() or target.is_mount():
        raise CheckpointError(
            f"{target} is in use and cannot be replaced. Give a new directory in it, {target / 'new'}."
        )
