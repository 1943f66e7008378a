"""Limit the answers under way, in total and for each key, and the memory of request bodies."""

import math
import time
from collections import Counter

from .api_errors import ApiError

SMOOTHING = 0.1  # weight of the latest answer in the mean time of one
MAX_RETRY_AFTER_S = 60


class Permit:
    """A place for an answer, held by everything that works on it; given back when the last of them lets go."""

    def __init__(self, limiter: "ConcurrencyLimiter", key: str | None) -> None:
        self.limiter = limiter
        self.key = key
        self.references = 1
        self.started = time.monotonic()

    def retain(self) -> None:
        """Hold it once more."""
        self.references += 1

    def release(self) -> None:
        """Let go once."""
        self.references -= 1
        if self.references == 0:
            self.limiter.release(self)


class ConcurrencyLimiter:
    """Counts the answers under way.

    Args:
        rows: answers that are written at a time.
        most: answers that may be under way, those that wait included.
        most_per_key: answers of one key that may be under way.
    """

    def __init__(self, max_batch_size: int, max_concurrent: int, most_per_key: int) -> None:
        self.max_batch_size = max_batch_size
        self.max_concurrent = max_concurrent
        self.most_per_key = most_per_key
        self.running = 0
        self.by_key: Counter[str] = Counter()
        self.closing = False
        self.mean_s = 1.0

    @property
    def is_full(self) -> bool:
        """Whether the next request would be sent away."""
        return self.running >= self.max_concurrent

    def acquire(self, key: str | None, count: int) -> list[Permit]:
        """Take the places of `count` answers.

        Raises:
            Refusal: 429, there are not so many, or not for this key.
        """
        if self.running + count > self.max_concurrent:
            raise self._busy_error(f"{self.running} answers are under way or waiting already.")
        if key is not None and self.by_key[key] + count > self.most_per_key:
            raise self._busy_error(f"This key has {self.by_key[key]} answers under way already.")
        self.running += count
        if key is not None:
            self.by_key[key] += count
        return [Permit(self, key) for _ in range(count)]

    def release(self, permit: Permit) -> None:
        """Give a place back."""
        self.running -= 1
        if permit.key is not None:
            self.by_key[permit.key] -= 1
        self.mean_s += SMOOTHING * (time.monotonic() - permit.started - self.mean_s)

    @property
    def retry_after(self) -> int:
        """Seconds after which a place should be free: what the answers under way take at the mean pace."""
        rounds = max(1.0, (self.running - self.max_batch_size) / self.max_batch_size)
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.mean_s * rounds)))

    def _busy_error(self, reason: str) -> ApiError:
        seconds = self.retry_after
        message = f"{reason} Try again in {seconds} s."
        return ApiError(429, message, code="busy", headers={"Retry-After": str(seconds)})


UNCOUNTED_BODY_BYTES = (
    256 * 1024
)  # bytes of each body that are not counted: small requests are never refused for large ones


class BodyBudget:
    """Bounds the bytes of the bodies in flight. Used on the event loop alone.

    Args:
        most: bytes of all bodies together.
    """

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.used = 0


class BodyReservation:
    """The part of a budget that one body takes."""

    def __init__(self, budget: BodyBudget) -> None:
        self.budget = budget
        self.taken = 0

    def resize(self, length: int) -> bool:
        """Take what a body of `length` bytes needs; return False if the budget does not have it."""
        more = max(0, length - UNCOUNTED_BODY_BYTES) - self.taken
        if self.budget.used + more > self.budget.max_concurrent:
            return False
        self.budget.used += more
        self.taken += more
        return True

    def release(self) -> None:
        """Give everything back."""
        self.budget.used -= self.taken
        self.taken = 0
