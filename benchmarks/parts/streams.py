"""Streams answers in one thread each, like the connections of a server."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from model.engine import Request


class StreamReader:
    """Reads one answer in a thread; also stores the exception that ends it.

    Args:
        ask: submits a request and returns its output stream, whose `close` cancels; for example `Scheduler.submit`.
        make: creates the request, in the thread, so that encoding the image is included.
        cancel_after: cancel after this many tokens, with 0 before the first is requested; None reads to the end.

    Attributes:
        started: start time, by `time.perf_counter`.
        times: time of each token.
        token_ids: the tokens.
        error: the exception that ended it, or None.
        finish_reason: the finish reason, or None.
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
        except Exception as error:  # `join` raises it
            self.error = error

    @property
    def is_done(self) -> bool:
        """Whether the stream has ended."""
        return not self.thread.is_alive()

    @property
    def last_activity(self) -> float:
        """The time of the last token, or of the start."""
        return self.times[-1] if self.times else self.started

    @property
    def token_gaps(self) -> list[float]:
        """Seconds between successive tokens."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]

    def cancel(self) -> None:
        """Close the stream at its next token."""
        self.cancelled = True

    def join(self, tokens: int | None = None) -> None:
        """Wait for the end.

        Raises:
            RuntimeError: the answer does not have `tokens` tokens.
            Exception: the exception that ended the stream.
        """
        self.thread.join()
        if self.error is not None:
            raise self.error
        if tokens is not None and len(self.times) != tokens:
            raise RuntimeError(f"An answer has {len(self.times)} tokens, not {tokens}.")


def percentile(values: list[float], share: float) -> float:
    """Return the `share` quantile: the value at index int(share * count) of the sorted values, at most the last."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
