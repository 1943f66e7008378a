"""The upload folder of a page: private, limited in size, and the only folder whose files visitors can name."""

import atexit
import contextlib
import functools
import logging
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from model import VisualGLMError

MAX_FOLDER_BYTES = 1024**3
KEEP_UPLOADS_S = 3600
MIN_FILE_BYTES = 8192  # disk space of a small file and its directory, so that the number of files is limited, too
TEMP_DIR_VARIABLE = "GRADIO_TEMP_DIR"
# O_NONBLOCK: opening a named pipe would otherwise wait for a writer. Windows lacks O_NOFOLLOW and O_NONBLOCK.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
logger = logging.getLogger(__name__)


class UploadError(VisualGLMError):
    """An upload does not exist, or cannot be stored."""


@functools.cache
def temporary_root() -> Path:
    """Create this process's upload directory (mode 700) and configure Gradio to use it; it is removed at exit.

    Gradio's default, /tmp/gradio, is shared by all pages, and may belong to another user who created it first.
    """
    root = Path(tempfile.mkdtemp(prefix="visualglm-", dir=os.environ.get(TEMP_DIR_VARIABLE) or None)).resolve()
    os.environ[TEMP_DIR_VARIABLE] = str(root)  # Gradio reads it each time it handles a file
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


class UploadFolder:
    """Stores uploaded files; removes the oldest files if the folder is full. Thread-safe.

    Args:
        extra_files: files outside the folder that may also be opened.
        max_bytes: maximum size of all files together.
    """

    def __init__(self, extra_files: Collection[Path] = (), max_bytes: int = MAX_FOLDER_BYTES) -> None:
        self.extra_files = frozenset(path.resolve() for path in extra_files)
        self.max_bytes = max_bytes
        self.root = temporary_root()
        self.path = self.root / f"page-{secrets.token_hex(8)}"
        self._reserved = 0
        self._lock = threading.Lock()
        self.prepare()

    def prepare(self) -> None:
        """Create the folder if it is missing, for example after a cleanup of /tmp.

        Raises:
            OSError: the folder cannot be created.
            UploadError: the folder belongs to another user, or is not a directory.
        """
        for folder in (self.root, self.path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
            foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
            if not stat.S_ISDIR(found.st_mode) or foreign:
                raise UploadError(f"The upload folder {folder} is not a directory of this user. Restart the page.")

    def contains(self, path: str | Path) -> bool:
        """Return whether a path, after resolving links, is in the folder or one of the extra files."""
        try:
            real = Path(os.path.realpath(path))
        except (OSError, ValueError):
            return False
        return real in self.extra_files or self.path in real.parents

    def open(self, path: str) -> BinaryIO:
        """Open an uploaded file.

        The path is checked before the file is opened, because opening a device can have effects. The open descriptor
        is checked again, because the path may name another file by then.

        Raises:
            UploadError: the path is not a regular file of this folder; the message does not reveal whether it exists.
        """
        with contextlib.suppress(OSError, ValueError):
            if self.contains(path):
                with contextlib.ExitStack() as stack:
                    descriptor = os.open(path, OPEN_FLAGS)
                    stack.callback(os.close, descriptor)
                    if self._is_own(path, descriptor):
                        stack.pop_all()  # keeps the descriptor open
                        return os.fdopen(descriptor, "rb")
        raise UploadError("This is not a file that was uploaded here, or it was removed. Upload it again.")

    def _is_own(self, path: str, descriptor: int) -> bool:
        """Return whether an open file is a regular file of the folder, and `path` still names it."""
        opened = os.fstat(descriptor)
        if not stat.S_ISREG(opened.st_mode):
            return False
        real = os.path.realpath(path, strict=True)
        return self.contains(real) and os.path.samestat(os.lstat(real), opened)

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the content of an uploaded file.

        Raises:
            UploadError: see `open`, or the file has more than `max_bytes`.
        """
        with self.open(path) as file:
            if os.fstat(file.fileno()).st_size > max_bytes:
                raise UploadError(f"The file has more than {max_bytes:,} bytes. Use a smaller one.")
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:  # the file has grown since
            raise UploadError(f"The file has more than {max_bytes:,} bytes. Use a smaller one.")
        return data

    def save(self, data: bytes, name: str) -> str:
        """Write a file into a new directory with an unguessable name; return its path.

        Raises:
            UploadError: the folder is full or cannot be written.
        """
        with self.reserve(len(data)):
            path = self.path / secrets.token_hex(16) / name
            try:
                path.parent.mkdir(mode=0o700)
                path.write_bytes(data)
            except OSError as error:
                logger.warning("%s cannot be written: %s", path, error)
                raise UploadError("The server could not store a file. Try again later.") from error
        return str(path)

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Context manager: reserve `size` bytes during the block; remove old files to free them.

        Raises:
            UploadError: running uploads have reserved all the space.
        """
        size = max(size, MIN_FILE_BYTES)
        with self._lock:
            if self._reserved + size > self.max_bytes:
                raise UploadError("Too many files are being uploaded at the moment. Try again soon.")
            self.prepare()
            self._reserved += size
            self._remove_old(self.max_bytes - self._reserved)
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def _remove_old(self, max_bytes: int) -> None:
        """Remove files that are older than KEEP_UPLOADS_S, and the oldest ones beyond `max_bytes`."""
        found = sorted(self._files(), key=lambda entry: entry[1].st_mtime)
        total = sum(size_on_disk(status) for _, status in found)
        for path, status in found:
            if total <= max_bytes and status.st_mtime > time.time() - KEEP_UPLOADS_S:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size_on_disk(status)
            if path.parent != self.path:
                with contextlib.suppress(OSError):  # another file is in it
                    path.parent.rmdir()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    yield path, path.lstat()

    def remove(self) -> None:
        """Remove the folder with all its files."""
        shutil.rmtree(self.path, ignore_errors=True)


def size_on_disk(status: os.stat_result) -> int:
    """Return the bytes that the size limit counts for a file."""
    return max(status.st_size, MIN_FILE_BYTES)
