"""The lock of a run, which keeps a second training from writing into the same directory.

It is a record lock of the operating system: it ends with its owner, however that ends, and worker processes that the
owner has forked do not hold it, as they would with `flock`.
"""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from .errors import TrainingError

LOCK_NAME = "lock"
IN_USE = (errno.EACCES, errno.EAGAIN)
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """Holds the lock of a run until it is closed or the process ends.

    Args:
        run: the run's directory.

    Raises:
        TrainingError: another process holds the lock, or the lock file cannot be opened.
    """

    def __init__(self, run: Path) -> None:
        try:
            self.descriptor: int | None = os.open(run / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise TrainingError(
                f"The run {run} cannot be locked ({error.strerror}). Look at the permissions of its directory."
            ) from error
        try:
            self._lock(run, self.descriptor)
        except BaseException:
            self.close()
            raise

    def _lock(self, run: Path, descriptor: int) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has none
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNSUPPORTED:  # a file system without locks
                return
            if error.errno not in IN_USE:
                raise TrainingError(f"The run {run} cannot be locked ({error.strerror}).") from error
            owner = "".join(filter(str.isprintable, os.pread(descriptor, 200, 0).decode("utf-8", "replace")))
            raise TrainingError(
                f"Another training is using the run {run} ({owner or 'its process is unknown'}). Wait for its end or "
                "stop it, or begin a new run without --resume."
            ) from error
        with suppress(OSError):  # on a full disk the lock holds without its owner's name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def close(self) -> None:
        """Release the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
