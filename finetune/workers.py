"""Data workers: their number, bounded by the shared memory, and their signal handling.

Batches travel through /dev/shm, of which a container may have 64 MB, or none that can be written.
"""

import multiprocessing
import multiprocessing.queues
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.environment import read_integer
from model.printing import print_text

from .errors import TrainingError
from .stopping import ignore_signals

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2  # batches that each process makes ahead, torch's default
USED_SHARE = 0.9  # of what is free: the rest is for others


def free_shared_memory() -> int | None:
    """Return the free bytes of the shared memory; None if unlimited or unknown."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):
        return None
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def why_no_workers() -> str | None:
    """Return why no process that reads data can be started; None if one can."""
    try:
        multiprocessing.get_context().Lock()  # a semaphore in the shared memory, as the queues have them
    except (ImportError, OSError) as error:
        return str(error)
    return None


def count_local_processes() -> int:
    """Return how many processes train on this machine and share its memory."""
    return max(1, read_integer("LOCAL_SIZE", read_integer("LOCAL_WORLD_SIZE", 1)))


def choose_workers(wanted: int, batch_bytes: int, batches: int) -> tuple[int, str]:
    """Return the number of data workers that fit, at most the number wanted, and a notice or an empty string.

    Args:
        wanted: processes.
        batch_bytes: the most bytes of a batch.
        batches: of a step.
    """
    if not wanted:
        return 0, ""
    reason = why_no_workers()
    if reason is not None:
        return 0, f"The shared memory {SHARED_MEMORY} cannot be used ({reason}): the training reads its data itself."
    free = free_shared_memory()
    if free is None:
        return wanted, ""
    room = int(USED_SHARE * free) // (count_local_processes() * max(1, batch_bytes))
    # A step holds its batches while the next one's are fetched.
    count = min(wanted, max(0, (room - 2 * batches) // PREFETCHED))
    if count == wanted:
        return count, ""
    return count, (
        f"The shared memory {SHARED_MEMORY} has {free / 1e6:.0f} MB free, which is enough for {count} of {wanted} "
        "processes that read data (--num-workers). Docker gives more by --shm-size=1g."
    )


def start_worker(number: int) -> None:
    """Prepare a process that reads data, in that process."""
    ignore_signals()
    # A thread of the queue sends the batches. Where it fails, it drops the batch, for which the training would wait.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_worker)  # type: ignore[attr-defined]


def end_worker(error: Exception, batch: object) -> None:
    """End this process after an error of the thread that sends batches, so that the training learns of it."""
    print_text(f"A process that reads data cannot send a batch: {error}", file=sys.stderr)
    os._exit(1)


@contextmanager
def lost_workers_explained() -> Iterator[None]:
    """Turn torch's error about a process that reads data and has ended into an error for a person."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise TrainingError(
            f"A process that reads data has ended ({error}). Often memory ran out: give fewer by --num-workers, 0 for "
            "none, or a smaller --batch-size."
        ) from error
