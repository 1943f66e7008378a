"""Handling of signals: Ctrl-C interrupts single operations; a signal that ends the program lets it tidy up before."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Windows has only the last of them.
TERMINATING = [getattr(signal, name) for name in ("SIGHUP", "SIGQUIT", "SIGTERM") if hasattr(signal, name)]


@contextlib.contextmanager
def on_interrupt(handler: Any) -> Iterator[None]:
    """Context manager: handle SIGINT (Ctrl-C) by `handler` during the block."""
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupt(*_: Any) -> None:
    """Ignore SIGINT.

    `signal.SIG_IGN` would not do: Python prints an error if a signal arrives just before it is set.
    """


def interrupt_once(*_: Any) -> NoReturn:
    """Raise KeyboardInterrupt, and ignore further signals, so that they cannot interrupt its handling."""
    signal.signal(signal.SIGINT, ignore_interrupt)
    raise KeyboardInterrupt


@contextlib.contextmanager
def before_termination(action: Callable[[], None]) -> Iterator[None]:
    """Context manager: call `action` before a signal ends the program, whose exit status stays the signal's.

    Signals that are ignored or handled already are left alone.
    """

    def end(number: int, _: Any) -> None:
        action()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    handled = [number for number in TERMINATING if signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
