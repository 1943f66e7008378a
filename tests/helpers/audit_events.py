"""What other threads than the test's open, connect to, look up or run, as Python's audit hooks see it."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AUDITED_EVENTS = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "subprocess.Popen",
    "urllib.Request",
)
_seen: list[list[tuple[str, tuple[Any, ...]]]] = []
_hooked: list[bool] = []


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    if _seen and name in AUDITED_EVENTS and threading.current_thread() is not threading.main_thread():
        for seen in _seen:
            seen.append((name, arguments))


@contextmanager
def record_audit_events() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """Watch in the block; give a list that grows by each (event, its arguments)."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)  # there is no way to take it out again
    seen: list[tuple[str, tuple[Any, ...]]] = []
    _seen.append(seen)
    try:
        yield seen
    finally:
        _seen.remove(seen)
