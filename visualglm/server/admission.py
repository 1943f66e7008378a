"""Admission control: limits on concurrent answers, in total and for each key."""

import math
import time
from collections import Counter

from ..body_budget import (
    UNCOUNTED_BODY_BYTES as UNCOUNTED_BODY_BYTES,
    BodyBudget as BodyBudget,
    BodyReservation as BodyReservation,
)
from .api_errors import ApiError

SMOOTHING = 0.1  # weight of the latest answer in the moving average of an answer's duration
MAX_RETRY_AFTER_S = 60


class Permit:
    """Permission for one answer, with a reference count; returned to the limiter when the last reference is released.

    The request and the generating thread each hold a reference.
    """

    def __init__(self, limiter: "ConcurrencyLimiter", key: str | None) -> None:
        self.limiter = limiter
        self.key = key
        self.references = 1
        self.started = time.monotonic()

    def retain(self) -> None:
        """Add a reference."""
        self.references += 1

    def release(self) -> None:
        """Remove a reference; the last one returns the permit."""
        self.references -= 1
        if self.references == 0:
            self.limiter.release(self)


class ConcurrencyLimiter:
    """Limits the number of concurrent answers. For use on the event loop only.

    Args:
        max_batch_size: answers that are generated at once.
        max_concurrent: answers that are generated or queued.
        max_per_key: answers of one key that are generated or queued.
    """

    def __init__(self, max_batch_size: int, max_concurrent: int, max_per_key: int) -> None:
        self.max_batch_size = max_batch_size
        self.max_concurrent = max_concurrent
        self.max_per_key = max_per_key
        self.running = 0
        self.by_key: Counter[str] = Counter()
        self.closing = False
        self.mean_s = 1.0

    @property
    def is_full(self) -> bool:
        """Whether the next request would get 429."""
        return self.running >= self.max_concurrent

    def acquire(self, key: str | None, count: int) -> list[Permit]:
        """Return permits for `count` answers.

        Raises:
            ApiError: 429, the total limit or the limit of this key is exceeded.
        """
        if self.running + count > self.max_concurrent:
            raise self._busy_error(f"{self.running} answers are already being generated or queued.")
        if key is not None and self.by_key[key] + count > self.max_per_key:
            raise self._busy_error(f"{self.by_key[key]} answers of this key are already being generated or queued.")
        self.running += count
        if key is not None:
            self.by_key[key] += count
        return [Permit(self, key) for _ in range(count)]

    def release(self, permit: Permit) -> None:
        """Take a permit back."""
        self.running -= 1
        if permit.key is not None:
            self.by_key[permit.key] -= 1
        self.mean_s += SMOOTHING * (time.monotonic() - permit.started - self.mean_s)

    @property
    def retry_after(self) -> int:
        """Estimated seconds until a permit is free: the queue's length in batches times the mean duration."""
        batches = max(1.0, (self.running - self.max_batch_size) / self.max_batch_size)
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.mean_s * batches)))

    def _busy_error(self, reason: str) -> ApiError:
        seconds = self.retry_after
        message = f"{reason} Try again in {seconds} s."
        return ApiError(429, message, code="busy", headers={"Retry-After": str(seconds)})
