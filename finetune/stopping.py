"""Handle SIGTERM and SIGINT: the first stops the training after its step, a second one ends the process immediately.

A launcher repeats signals: under a launcher, a second signal has no effect until `REPEATED_S` after the first.

Python runs a signal handler only between two bytecode instructions of the main thread, and a backward pass or the
writing of a file is a single one. So a separate thread handles signals: it reads their numbers from the descriptor to
which the interpreter writes them as they arrive (`signal.set_wakeup_fd`).
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model.command_line import print_text

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNAL_EXIT_BASE = 128  # plus the number of the signal: a shell's exit status
# Launchers repeat signals, and send SIGTERM after the terminal's SIGINT: a signal within this time after the first one
# is the same request.
REPEATED_S = 3.0


class StopRequest:
    """A request to stop the training after the current step.

    Args:
        announces: whether this process prints a message when a signal arrives.
        is_launched: whether a launcher may repeat signals.

    Attributes:
        signal: the number of the first signal; None before it arrives.
        arrived: time at which the first signal arrived, in seconds of `time.monotonic`.
    """

    def __init__(self, announces: bool = True, is_launched: bool = False) -> None:
        self.announces = announces
        self.is_launched = is_launched
        self.signal: int | None = None
        self.arrived = 0.0

    @property
    def is_requested(self) -> bool:
        """Whether the training should stop."""
        return self.signal is not None

    def handle(self, number: int) -> None:
        """Handle a signal: the first requests a stop, a second one ends the process.

        Under a launcher, signals within `REPEATED_S` after the first have no effect.
        """
        now = time.monotonic()
        if self.signal is None:
            self.signal, self.arrived = number, now
            if self.announces:
                name = signal.Signals(number).name
                text = f"{name}: the training stops after this step and saves. A second signal ends it immediately."
                print_text(text, file=sys.stderr)
        elif not (self.is_launched and now - self.arrived < REPEATED_S):
            os._exit(SIGNAL_EXIT_BASE + number)


def do_nothing(number: int, frame: Any) -> None:
    """Do nothing: a Python-level handler has to be installed, but `listen` handles the signals."""


@contextmanager
def catch_signals(request: StopRequest) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a stop request during a block; has no effect outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    thread = threading.Thread(target=listen, args=(receiver, request), daemon=True)
    thread.start()
    handlers = {number: signal.signal(number, do_nothing) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sender.close()
        thread.join()
        receiver.close()


def listen(receiver: socket.socket, request: StopRequest) -> None:
    """Handle the signals whose numbers arrive, until the sending socket is closed."""
    while numbers := receiver.recv(1):
        if numbers[0] in SIGNALS:
            request.handle(numbers[0])


def ignore_signals() -> None:
    """Ignore signals in a worker process, whose parent process handles them and ends its workers."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT; processes started meanwhile keep them blocked until they call `ignore_signals`."""
    if not hasattr(signal, "pthread_sigmask"):  # not available on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
