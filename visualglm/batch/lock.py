"""Lock a file against a second program, until it is closed or the process ends, even if it is killed."""

import errno
import os

IN_USE = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
BEYOND_FILES = 2**62  # offset of the locked byte on Windows, where locked bytes cannot be read


def lock_file(descriptor: int) -> bool:
    """Lock an open file; return False if another program holds the lock.

    A file system without locks grants it.
    """
    try:
        _lock(descriptor)
    except OSError as error:
        return error.errno not in IN_USE
    return True


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # on Windows
        import msvcrt

        os.lseek(descriptor, BEYOND_FILES, os.SEEK_SET)
        getattr(msvcrt, "locking")(descriptor, getattr(msvcrt, "LK_NBLCK"), 1)  # noqa: B009  (unknown to mypy on Linux)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
