"""CUDA graphs: a series of kernels that is recorded once and then started as one."""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..recording import side_stream, undisturbed

# Libraries allocate and choose kernels in the first call.
WARM_UP = 1

Undo = Callable[[], None]


def nothing() -> None:
    """Undo what has no lasting effect."""


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
            function: is called a few times to warm up before it is recorded.
            remember: is called before that, and returns what undoes the effects of a call.

        Raises:
            RuntimeError: `function` does what cannot be recorded, such as waiting for the device.
        """
        if key not in self.graphs:
            self.graphs[key] = self._record(function, remember())
        self.graphs[key].replay()

    def forget(self) -> None:
        """Drop all graphs, because what they read and write is to move."""
        if self.graphs:
            torch.cuda.synchronize()  # one may be running
        self.graphs, self.pool = {}, None

    def _record(self, function: Callable[[], None], undo: Undo) -> torch.cuda.CUDAGraph:
        with undisturbed():
            side = side_stream(torch.cuda.current_device())
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    function()
                    undo()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may encode pictures meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
                function()
            self.pool = self.pool or graph.pool()
            return graph
