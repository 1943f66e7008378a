"""Answer tasks in several processes of this machine, one per device."""

import multiprocessing
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from model import GenerationError, VisualGLMError
from model.command_line import print_text

from .tasks import Result, Settings, Task

JOIN_S = 10.0  # until a process that was asked to end is killed


@dataclass(eq=False)
class Worker:
    """A process with a model on its own device.

    Attributes:
        tasks: those that it has, with the questions that have no result yet, by row number.
        capacity: number of tasks that it can have; 0 until its model is loaded.
        is_last_sent: whether it knows that it has all tasks there are.
    """

    device: str
    process: BaseProcess
    connection: Connection
    tasks: dict[int, Task] = field(default_factory=dict)
    capacity: int = 0
    is_last_sent: bool = False


def answer_in_processes(settings: Settings, tasks: Iterable[Task], devices: Sequence[str]) -> Iterator[Result]:
    """Answer tasks in one process per device, and yield results as they come; closing the iterator ends the processes.

    Tasks of a process that dies are given to the others.

    Args:
        devices: such as ["cuda:0", "cuda:1"].

    Raises:
        VisualGLMError: the model cannot be loaded, or all processes have died.
    """
    workers = [start_worker(settings, device) for device in devices]
    try:
        yield from Distributor(workers, iter(tasks)).results()
    finally:
        for worker in workers:
            worker.connection.close()  # its process ends then
        for worker in workers:
            worker.process.join(JOIN_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def start_worker(settings: Settings, device: str) -> Worker:
    """Start a process that loads the model on a device."""
    context = multiprocessing.get_context("spawn")  # a fork could not use CUDA
    here, there = context.Pipe()
    process = context.Process(target=work, args=(settings, device, there), name=f"answers on {device}", daemon=True)
    with ignored_interrupts():
        process.start()
    there.close()
    return Worker(device, process, here)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Context manager: let new processes ignore Ctrl-C; the main process handles it and stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


class Distributor:
    """Gives tasks to processes and takes their results.

    Args:
        workers: the processes.
        tasks: read as far as the processes have room.
    """

    def __init__(self, workers: Sequence[Worker], tasks: Iterator[Task]) -> None:
        self.workers = list(workers)
        self.tasks = tasks
        self.returned: deque[Task] = deque()  # of processes that have died

    def results(self) -> Iterator[Result]:
        """Yield results until all tasks have theirs.

        Raises:
            VisualGLMError: the model cannot be loaded, or all processes have died.
        """
        while self._distribute() or any(worker.tasks for worker in self.workers):
            by_connection = {worker.connection: worker for worker in self.workers}
            for connection in wait(list(by_connection)):
                yield from self._receive(by_connection[connection])  # type: ignore[index]

    def _distribute(self) -> bool:
        """Give tasks to the processes in turn, as far as they have room; return whether there may be more tasks."""
        ready = [worker for worker in self.workers if worker.capacity]
        while free := [worker for worker in ready if len(worker.tasks) < worker.capacity]:
            for worker in free:
                task = self.returned.popleft() if self.returned else next(self.tasks, None)
                if task is None:
                    for other in ready:
                        send_last(other)
                    return False
                send_task(worker, task)
        return True

    def _receive(self, worker: Worker) -> Iterator[Result]:
        """Take a message of a process, and yield the result in it."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._remove(worker)
            return
        if isinstance(message, VisualGLMError):
            raise message
        if isinstance(message, int):
            worker.capacity = message
            return
        task = worker.tasks.pop(message.task.number)
        left = {number: text for number, text in task.questions.items() if number != message.question}
        if left and message.question:
            worker.tasks[task.number] = replace(task, questions=left)
        yield message

    def _remove(self, worker: Worker) -> None:
        """Take back the tasks of a process that has died; raise GenerationError if no other is left."""
        self.workers.remove(worker)
        self.returned.extend(worker.tasks.values())
        worker.process.join(JOIN_S)
        reason = f"The process on {worker.device} has ended (exit code {worker.process.exitcode})"
        if not self.workers:
            raise GenerationError(
                f"{reason}, and no other is left. Its messages above may tell why; often the memory is too small: "
                "lower --max-batch, or use --quant."
            )
        print_text(f"note: {reason}. Its rows go to the {len(self.workers)} left.", file=sys.stderr)


def send_task(worker: Worker, task: Task) -> None:
    """Send a task to a process."""
    worker.tasks[task.number] = task
    worker.is_last_sent = False
    with suppress(OSError):  # it has died, which the next reading notices
        worker.connection.send(task)


def send_last(worker: Worker) -> None:
    """Tell a process that it has all tasks there are, so that it waits for no further ones to fill its batch."""
    if not worker.is_last_sent:
        worker.is_last_sent = True
        with suppress(OSError):
            worker.connection.send(None)


def work(settings: Settings, device: str, connection: Connection) -> None:
    """Run a process: load the model, then answer the tasks that come until the connection is closed."""
    from model.resource_errors import translate_resource_errors

    with suppress(OSError):  # the first process has ended
        try:
            with translate_resource_errors():
                answer_messages(settings, device, connection)
        except VisualGLMError as error:
            connection.send(VisualGLMError(str(error)))  # other classes may need more than a message


def answer_messages(settings: Settings, device: str, connection: Connection) -> None:
    """Answer the tasks that come through a connection until it is closed; first send their maximum number."""
    from .work import Answerer

    answerer = Answerer(settings, device)
    answerer.warm_up()
    # A thread reads the tasks, so that the first process never waits with a task while this one waits with a result.
    messages: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    closed = threading.Event()
    threading.Thread(target=read_messages, args=(connection, messages, closed), daemon=True).start()
    connection.send(answerer.capacity)
    while not closed.is_set():
        for result in answerer.answer(iter(messages.get, None)):
            connection.send(result)


def read_messages(connection: Connection, messages: "queue.SimpleQueue[Task | None]", closed: threading.Event) -> None:
    """Put what comes through a connection into a queue; set `closed` when it is closed."""
    with suppress(EOFError, OSError):
        while True:
            messages.put(connection.recv())
    closed.set()
    messages.put(None)
