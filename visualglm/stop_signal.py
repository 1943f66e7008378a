"""Wait for the signals that stop a server: SIGINT (Ctrl-C) and SIGTERM."""

import queue
import signal
from types import FrameType


class StopSignal:
    """Takes the signals from its creation on; to be created and waited for in the main thread.

    A threading.Event does not serve: a second signal may come while the first one holds its lock, and would wait for
    that lock forever. `SimpleQueue.put` may be interrupted by itself.

    Attributes:
        count: number of signals so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self.received: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.received.put(number)

    def wait(self) -> None:
        """Wait for a signal that has not been waited for."""
        self.received.get()
