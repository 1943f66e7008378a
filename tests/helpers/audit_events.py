"""Record the files, addresses and programs that threads other than the test's open, by Python's audit hooks."""

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
    """Context manager: yield a list to which each audit event is appended as (name, arguments)."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)  # audit hooks cannot be removed
    seen: list[tuple[str, tuple[Any, ...]]] = []
    _seen.append(seen)
    try:
        yield seen
    finally:
        _seen.remove(seen)
