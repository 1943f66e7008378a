"""A limit on the memory of all request bodies in flight."""

# Bytes of each body that the budget does not count, so that large requests never cause small ones to be rejected.
UNCOUNTED_BODY_BYTES = 256 * 1024


class BodyBudget:
    """A limit on the bytes of all request bodies in flight. For use on the event loop only.

    Args:
        max_bytes: bytes of all bodies together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0


class BodyReservation:
    """The bytes of a budget that one body has reserved."""

    def __init__(self, budget: BodyBudget) -> None:
        self.budget = budget
        self.reserved = 0

    def resize(self, length: int) -> bool:
        """Reserve the bytes of a body of `length` bytes; return False if the budget has too few left."""
        more = max(0, length - UNCOUNTED_BODY_BYTES) - self.reserved
        if self.budget.used + more > self.budget.max_bytes:
            return False
        self.budget.used += more
        self.reserved += more
        return True

    def release(self) -> None:
        """Return all reserved bytes to the budget."""
        self.budget.used -= self.reserved
        self.reserved = 0
