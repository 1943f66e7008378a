"""Answers that threads of their own read while they come, as the connections of a server do."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from model.engine import Request


class StreamReader:
    """One answer, read by a thread; what reading it raises is kept, too.

    Args:
        ask: queues a request and returns the answer's steps; closing them cancels. `Scheduler.submit` is one.
        make: makes the request, in the thread: its picture counts.
        most: cancel after so many tokens, with 0 before any is asked for; None reads to the end.

    Attributes:
        started: when it was asked, by `time.perf_counter`.
        times: when each token came.
        token_ids: which.
        error: what ended it, if anything did.
        finish_reason: why it ended by itself, if it did.
    """

    def __init__(
        self, ask: Callable[[Request], Any], make: Callable[[], Request], cancel_after: int | None = None
    ) -> None:
        self.ask, self.make, self.cancel_after = ask, make, cancel_after
        self.cancelled = False
        self.started = time.perf_counter()
        self.times: list[float] = []
        self.token_ids: list[int] = []
        self.error: BaseException | None = None
        self.finish_reason: str | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            steps = self.ask(self.make())
            for step in steps if self.cancel_after != 0 else ():
                if step.token_id is not None:
                    self.times.append(time.perf_counter())
                    self.token_ids.append(step.token_id)
                self.finish_reason = step.finish_reason
                if self.cancelled or len(self.times) == self.cancel_after:
                    break
            steps.close()
        except Exception as error:  # it belongs to whoever joins
            self.error = error

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return not self.thread.is_alive()

    @property
    def last_activity(self) -> float:
        """When it was last heard of."""
        return self.times[-1] if self.times else self.started

    @property
    def token_gaps(self) -> list[float]:
        """Seconds from each token to the next."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]

    def cancel(self) -> None:
        """Close the answer when its next token comes."""
        self.cancelled = True

    def join(self, tokens: int | None = None) -> None:
        """Wait for the end; raise what ended it, or RuntimeError where it has not `tokens` tokens."""
        self.thread.join()
        if self.error is not None:
            raise self.error
        if tokens is not None and len(self.times) != tokens:
            raise RuntimeError(f"An answer has {len(self.times)} tokens, not {tokens}.")


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
