"""Recognize a shortage of memory, file descriptors or threads in what libraries raise, and put it into words."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import ResourceError

OUT_OF_MEMORY = (
    "There is too little memory left. End other programs, or take a smaller model or one of fewer bits (quant), "
    "and lower max_length."
)
OUT_OF_FILES = (
    "No more files can be opened: the limit of open files is reached. Raise it (`ulimit -n 4096` in this shell), "
    "or end other programs."
)
OUT_OF_THREADS = "No more threads can be started. End other programs, or raise the limit of processes (`ulimit -u`)."
ERRNO_MESSAGES = {errno.EMFILE: OUT_OF_FILES, errno.ENFILE: OUT_OF_FILES, errno.ENOMEM: OUT_OF_MEMORY}
# Compiled libraries raise a RuntimeError or an error of their own, with the system's words in it.
ERROR_PATTERNS = (
    (
        re.compile(r"(can't|cannot|could not|failed to) allocate memory|out of memory|bad_alloc", re.IGNORECASE),
        OUT_OF_MEMORY,
    ),
    (re.compile(r"too many open files", re.IGNORECASE), OUT_OF_FILES),
    (re.compile(r"can't start new thread", re.IGNORECASE), OUT_OF_THREADS),
)
MAX_CAUSES = 10  # that are followed from an error
MAX_TEXT_LENGTH = 1000  # of an error's text


def find_resource_error(error: BaseException) -> ResourceError | None:
    """Return the error for a person if a shortage caused `error`, None if anything else did."""
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
    """Say what is short, looking at this error alone and not at its causes; None for any other error."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in ERRNO_MESSAGES:
        return ERRNO_MESSAGES[error.errno]
    if not isinstance(error, Exception):
        return None
    text = str(error)[:MAX_TEXT_LENGTH]
    return next((reason for words, reason in ERROR_PATTERNS if words.search(text)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is Python's or torch's for an allocation that failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ERROR_PATTERNS[0][0].search(str(error)[:MAX_TEXT_LENGTH]) is not None


@contextmanager
def translate_resource_errors() -> Iterator[None]:
    """Turn what a block raises for a shortage, whatever its type, into a ResourceError."""
    try:
        yield
    except Exception as error:
        resource_error = find_resource_error(error)
        if resource_error is None or resource_error is error:
            raise
        raise resource_error from error
