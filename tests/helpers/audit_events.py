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
_recorded: list[list[tuple[str, tuple[Any, ...]]]] = []
_hooked: list[bool] = []


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    if _recorded and name in AUDITED_EVENTS and threading.current_thread() is not threading.main_thread():
        for recorded in _recorded:
            recorded.append((name, arguments))


@contextmanager
def record_audit_events() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """Context manager: yield a list to which each audit event is appended as (name, arguments)."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)  # audit hooks cannot be removed
    recorded: list[tuple[str, tuple[Any, ...]]] = []
    _recorded.append(recorded)
    try:
        yield recorded
    finally:
        _recorded.remove(recorded)
