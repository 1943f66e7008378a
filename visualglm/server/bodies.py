"""The memory that request bodies take together, while they arrive and until their pictures are decoded."""

FREE = 256 * 1024  # bytes of each body that are not counted: small requests are never refused for large ones


class BodyBudget:
    """Bounds the bytes of the bodies in flight. Used on the event loop alone.

    Args:
        most: bytes of all bodies together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0


class BodyShare:
    """The part of a budget that one body takes."""

    def __init__(self, budget: BodyBudget) -> None:
        self.budget = budget
        self.taken = 0

    def resize(self, length: int) -> bool:
        """Take what a body of `length` bytes needs; return False if the budget does not have it."""
        more = max(0, length - FREE) - self.taken
        if self.budget.used + more > self.budget.most:
            return False
        self.budget.used += more
        self.taken += more
        return True

    def release(self) -> None:
        """Give everything back."""
        self.budget.used -= self.taken
        self.taken = 0
