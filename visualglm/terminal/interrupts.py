"""Handling of Ctrl-C: it interrupts single operations, and never the program between them."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, NoReturn


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
