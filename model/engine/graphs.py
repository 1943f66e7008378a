"""CUDA graphs: a series of kernels that is recorded once and then started as one."""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from .recording import Undo, nothing, record


class Graphs:
    """Records functions that take and return nothing, each at its first call, and replays them afterwards.

    What they read and write must stay where it is.
    """

    def __init__(self) -> None:
        self.graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.pool: Any = None

    def run(self, key: Hashable, function: Callable[[], None], remember: Callable[[], Undo] = lambda: nothing) -> None:
        """Run `function`, from its graph if there is one.

        Args:
            key: names the function with all that its kernels depend on.
            function: is called twice to be recorded.
            remember: is called before that, and returns what undoes the effects of a call.

        Raises:
            RuntimeError: `function` does what cannot be recorded, such as waiting for the device.
        """
        if key not in self.graphs:
            self.graphs[key], _ = record(function, self.pool, remember())
            self.pool = self.pool or self.graphs[key].pool()
        self.graphs[key].replay()

    def forget(self) -> None:
        """Drop all graphs, because what they read and write is to move."""
        if self.graphs:
            torch.cuda.synchronize()  # one may be running
        self.graphs, self.pool = {}, None
