"""A lazy stream of tasks as the source of a Ray dataset.

A thread of the program puts bundles of tasks into a queue, and the dataset's only read task takes them out. The read
task runs on the program's own node, whose objects cannot be lost while the program lives.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.queue import Full, Queue

from visualglm.batch.tasks import Task
from visualglm.batch.work import map_ahead

from .bundles import pack_tasks
from .nodes import is_file

QUEUE_LENGTH = 4  # bundles
READING_THREADS = 8  # of files that are sent to the nodes
PATIENCE_S = 1.0  # until a blocked `put` looks whether the program ends
START, END = b"start", b"end"


class TaskFeed:
    """Queue of task bundles, with a record of unanswered tasks.

    Args:
        tasks: read by a thread, lazily.
        rows: tasks of a bundle.
        send_images: whether files are read here and sent with the tasks.

    Attributes:
        queue: bundles on their way.
        unanswered: tasks of each bundle that was sent and not yet answered, by the bundle's number.
        error: the exception that ended the stream of tasks, None if there was none.
    """

    def __init__(self, tasks: Iterable[Task], rows: int, send_images: bool) -> None:
        self.tasks = tasks
        self.rows = rows
        self.send_images = send_images
        self.queue = Queue(QUEUE_LENGTH, {"num_cpus": 0})
        self.unanswered: dict[int, list[Task]] = {}
        self.error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more, and wait until the tasks are no longer read."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        self._put(START)
        try:
            tasks = iter(self.tasks)
            for number, bundle in enumerate(iter(lambda: list(islice(tasks, self.rows)), [])):
                self.unanswered[number] = bundle
                if not self._put(self._pack(number, bundle)):
                    return
        except Exception as error:  # it is raised again in the program's main thread
            self.error = error
        self._put(END)

    def _pack(self, number: int, bundle: list[Task]) -> bytes:
        if self.send_images:
            bundle = list(map_ahead(read_image, bundle, READING_THREADS, len(bundle)))
        return pack_tasks(number, bundle)

    def _put(self, item: bytes) -> bool:
        while not self._stopped.is_set():
            try:
                self.queue.put(item, timeout=PATIENCE_S)
                return True
            except Full:
                continue
        return False


def read_image(task: Task) -> Task:
    """Return the task with the content of its image's file; without change if it has none that can be read."""
    if not isinstance(task.image, str) or not is_file(task.image):
        return task
    try:
        return replace(task, image=Path(task.image).read_bytes())
    except OSError:  # the node reports the missing file as it reports others
        return task


class FeedSource(Datasource):
    """The bundles of a feed as a Ray dataset: one row with the bytes "tasks" a bundle, in a block of its own."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue = queue

    @property
    def supports_distributed_reads(self) -> bool:
        """False: the bundles are read on the program's node."""
        return False

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: the size is unknown."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Return the only read task."""
        queue = self.queue
        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(lambda: read_bundles(queue), metadata)]


def read_bundles(queue: Queue) -> Iterator[pyarrow.Table]:
    """Yield bundles until the feed ends.

    Raises:
        RuntimeError: bundles were read before, by a read task that was lost.
    """
    if queue.get() != START:
        raise RuntimeError("The read task was started a second time.")
    while (item := queue.get()) != END:
        yield pyarrow.table({"tasks": pyarrow.array([item], pyarrow.large_binary())})
