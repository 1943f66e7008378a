"""Keys and replies of the terminal: reading them without an echo on the screen."""

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

REPLY_SECONDS = 0.5  # a slow connection may need more than the few milliseconds of a local terminal
CONTROL_SEQUENCES = re.compile(rb"\x1b(?:[_P\]].*?(?:\x1b\\|\x07)|\[[0-?]*[ -/]*[@-~]|O.|.)", re.DOTALL)


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


def ask_terminal(query: str, reply: re.Pattern[bytes]) -> tuple[bytes, str]:
    """Send a control sequence to the terminal, and wait for a reply; do nothing if keys are waiting to be read.

    Args:
        query: written to the standard output.
        reply: ends the input that is awaited.

    Returns:
        The input up to the reply, b"" if none arrived; and the text among it that the user typed.
    """
    if termios is None or not sys.stdin.isatty() or not sys.stdout.isatty():
        return b"", ""
    with hold_keys(keep_signals=False):
        if is_readable(0):
            return b"", ""
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
