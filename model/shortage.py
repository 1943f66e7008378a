"""Recognize a shortage of memory, file descriptors or threads in what libraries raise, and put it into words."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import ResourceError

MEMORY = (
    "There is too little memory left. End other programs, or take a smaller model or one of fewer bits (quant), "
    "and lower max_length."
)
FILES = (
    "No more files can be opened: the limit of open files is reached. Raise it (`ulimit -n 4096` in this shell), "
    "or end other programs."
)
THREADS = "No more threads can be started. End other programs, or raise the limit of processes (`ulimit -u`)."
ERROR_NUMBERS = {errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOMEM: MEMORY}
# Compiled libraries raise a RuntimeError or an error of their own, with the system's words in it.
WORDS = (
    (re.compile(r"(can't|cannot|could not|failed to) allocate memory|out of memory|bad_alloc", re.IGNORECASE), MEMORY),
    (re.compile(r"too many open files", re.IGNORECASE), FILES),
    (re.compile(r"can't start new thread", re.IGNORECASE), THREADS),
)
MAX_CAUSES = 10  # that are followed from an error
MAX_CHARACTERS = 1000  # of an error's text


def find_shortage(error: BaseException) -> ResourceError | None:
    """Return the error for a person if a shortage caused `error`, None if anything else did."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        if isinstance(cause, ResourceError):
            return cause
        if reason := describe_shortage(cause):
            return ResourceError(reason)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def describe_shortage(error: BaseException) -> str | None:
    """Say what is short, looking at this error alone and not at its causes; None for any other error."""
    if is_memory_shortage(error):
        return MEMORY
    if isinstance(error, OSError) and error.errno in ERROR_NUMBERS:
        return ERROR_NUMBERS[error.errno]
    if not isinstance(error, Exception):
        return None
    text = str(error)[:MAX_CHARACTERS]
    return next((reason for words, reason in WORDS if words.search(text)), None)


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error is Python's or torch's for an allocation that failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and WORDS[0][0].search(str(error)[:MAX_CHARACTERS]) is not None


@contextmanager
def shortage_explained() -> Iterator[None]:
    """Turn what a block raises for a shortage, whatever its type, into a ResourceError."""
    try:
        yield
    except Exception as error:
        shortage = find_shortage(error)
        if shortage is None or shortage is error:
            raise
        raise shortage from error
