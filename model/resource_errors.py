"""Detect exhausted memory, file descriptors or threads in exceptions, and translate them to ResourceError."""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ResourceError

OUT_OF_MEMORY = (
    "There is too little memory left. End other programs, or use a smaller or quantized model (quant), "
    "and lower max_length."
)
OUT_OF_FILES = (
    "No more files can be opened: the limit of open files is reached. Raise it (`ulimit -n 4096` in this shell), "
    "or end other programs."
)
OUT_OF_THREADS = "No more threads can be started. End other programs, or raise the limit of processes (`ulimit -u`)."
ERRNO_MESSAGES = {errno.EMFILE: OUT_OF_FILES, errno.ENFILE: OUT_OF_FILES, errno.ENOMEM: OUT_OF_MEMORY}
# Compiled libraries raise RuntimeError or exceptions of their own that contain the system's message.
ERROR_PATTERNS = (
    (
        re.compile(r"(can't|cannot|could not|failed to) allocate memory|out of memory|bad_alloc", re.IGNORECASE),
        OUT_OF_MEMORY,
    ),
    (re.compile(r"too many open files", re.IGNORECASE), OUT_OF_FILES),
    (re.compile(r"can't start new thread", re.IGNORECASE), OUT_OF_THREADS),
)
MAX_CAUSES = 10  # longest chain of causes that is searched
MAX_TEXT_LENGTH = 1000  # characters of an error message that are searched


def find_resource_error(error: BaseException) -> ResourceError | None:
    """Return a ResourceError if an exhausted resource caused `error`, else None."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        if isinstance(cause, ResourceError):
            return cause
        if reason := describe_exhaustion(cause):
            return ResourceError(reason)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def describe_exhaustion(error: BaseException) -> str | None:
    """Return the message for an exhausted resource; None for other errors. Causes are not searched."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in ERRNO_MESSAGES:
        return ERRNO_MESSAGES[error.errno]
    if not isinstance(error, Exception):
        return None
    text = str(error)[:MAX_TEXT_LENGTH]
    return next((reason for words, reason in ERROR_PATTERNS if words.search(text)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python or torch reports a failed memory allocation."""
    torch = sys.modules.get("torch")  # None in a program that has not imported it yet
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and ERROR_PATTERNS[0][0].search(str(error)[:MAX_TEXT_LENGTH]) is not None


@contextmanager
def translate_resource_errors() -> Iterator[None]:
    """Translate exceptions of any type that report an exhausted resource to ResourceError."""
    try:
        yield
    except Exception as error:
        resource_error = find_resource_error(error)
        if resource_error is None or resource_error is error:
            raise
        raise resource_error from error
