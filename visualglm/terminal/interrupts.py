"""What Ctrl-C does, and when."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, NoReturn


@contextlib.contextmanager
def on_interrupt(handler: Any) -> Iterator[None]:
    """Let Ctrl-C do what `handler` does, in the block."""
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupt(*_: Any) -> None:
    """Let Ctrl-C do nothing.

    Unlike `signal.SIG_IGN`: Python complains on the screen of a signal that came just before it was to be ignored.
    """


def interrupt_once(*_: Any) -> NoReturn:
    """Raise KeyboardInterrupt, and let no other disturb what it sets off."""
    signal.signal(signal.SIGINT, ignore_interrupt)
    raise KeyboardInterrupt
