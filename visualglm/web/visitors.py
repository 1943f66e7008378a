"""The memory that the conversations of all visitors take, bounded."""

import threading
import weakref
from collections import OrderedDict

from .session import Session

MAX_MEMORY = 512 * 1024**2


class Visitors:
    """Adds up the memory of all sessions, for any thread; beyond the bound, those unused for longest are dropped.

    Args:
        max_memory: bytes of all conversations together.
    """

    def __init__(self, max_memory: int = MAX_MEMORY) -> None:
        self.max_memory = max_memory
        self._sizes: OrderedDict[int, tuple[weakref.ref[Session], int]] = OrderedDict()
        self._total = 0
        self._lock = threading.RLock()  # the garbage collector can call _remove while the lock is held

    @property
    def memory(self) -> int:
        """Bytes that the sessions took when they were last noted."""
        return self._total

    def note(self, session: Session) -> None:
        """Count a session that has changed; drop the conversations of others if there is too much."""
        key = id(session)
        with self._lock:
            self._remove(key)
            size = session.memory
            self._sizes[key] = (weakref.ref(session, lambda _: self._remove(key)), size)
            self._total += size
            while self._total > self.max_memory and len(self._sizes) > 1:
                oldest = next(iter(self._sizes))
                dropped = self._sizes[oldest][0]()
                self._remove(oldest)
                if dropped is not None:
                    dropped.drop()

    def _remove(self, key: int) -> None:
        with self._lock:
            _, size = self._sizes.pop(key, (None, 0))
            self._total -= size
