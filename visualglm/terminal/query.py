"""Keys, replies and modes of the terminal: reading without an echo on the screen, and leaving it as it was."""

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

from .interrupts import before_termination

SILENT_TERMS = ("", "dumb", "linux", "unknown")  # they would print a query, or not reply
RESET = b"\x1b[?2004l\x1b[?25h\x1b[0m"  # of what the prompt changes: pasting, the cursor and colors
REPLY_SECONDS = 0.5  # a slow connection may need more than the few milliseconds of a local terminal
CONTROL_SEQUENCES = re.compile(rb"\x1b(?:[_P\]].*?(?:\x1b\\|\x07)|\[[0-?]*[ -/]*[@-~]|O.|.)", re.DOTALL)


@contextlib.contextmanager
def restore_modes() -> Iterator[None]:
    """Context manager: restore the terminal's modes before a signal ends the program. Without one, do nothing."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            if os.tcgetpgrp(descriptor) != os.getpgrp():  # a program in the background would be stopped
                return
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
            if sys.stdout.isatty() and os.environ.get("TERM", "") not in SILENT_TERMS:
                os.write(sys.stdout.fileno(), RESET)

    with before_termination(restore):
        yield


@contextlib.contextmanager
def hold_keys(keep_signals: bool = True) -> Iterator[None]:
    """Context manager: do not echo typed keys; they remain in the input for the next prompt.

    Without a terminal, nothing is changed.

    Args:
        keep_signals: whether Ctrl-C still interrupts.
    """
    if termios is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    held = termios.tcgetattr(descriptor)
    held[0] &= ~termios.ICRNL  # as in the prompt, which tells Enter from Ctrl-J
    held[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | (0 if keep_signals else termios.ISIG))
    termios.tcsetattr(descriptor, termios.TCSANOW, held)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def ask_terminal(query: str, reply: re.Pattern[bytes]) -> tuple[bytes | None, str]:
    """Send a control sequence to the terminal, and wait for a reply; do nothing if keys are waiting to be read.

    Args:
        query: written to the standard output.
        reply: ends the input that is awaited.

    Returns:
        The input up to the reply, None if nothing was sent; and the text among it that the user typed.
    """
    if termios is None or not sys.stdin.isatty() or not sys.stdout.isatty():
        return None, ""
    with hold_keys(keep_signals=False):
        if is_readable(0):
            return None, ""
        sys.stdout.write(query)
        sys.stdout.flush()
        received = read_until(reply)
    return received, typed_text(received)


def read_until(reply: re.Pattern[bytes]) -> bytes:
    """Read the standard input until it contains `reply`, or for `REPLY_SECONDS`."""
    received, deadline = b"", time.monotonic() + REPLY_SECONDS
    while reply.search(received) is None and is_readable(deadline - time.monotonic()):
        data = os.read(sys.stdin.fileno(), 1024)
        if not data:
            break
        received += data
    return received


def is_readable(seconds: float) -> bool:
    """Return whether the standard input has data within this time."""
    return bool(select.select([sys.stdin.fileno()], [], [], max(0.0, seconds))[0])


def typed_text(received: bytes) -> str:
    """Return the printable text in the input, without replies of the terminal and special keys."""
    text = CONTROL_SEQUENCES.sub(b"", received).decode("utf-8", "ignore")
    return "".join(character for character in text if character.isprintable())
