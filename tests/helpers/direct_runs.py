"""A stand-in for CUDA graphs that calls the functions directly, on a CPU."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from model.kernels.torch_ops import Restore, restore_nothing

T = TypeVar("T")


class DirectRuns:
    """A stand-in for `CudaGraphs`: calls a function once more where a capture does, and undoes that call."""

    def __init__(self) -> None:
        self.graphs: set[Hashable] = set()

    def run(
        self, key: Hashable, function: Callable[[], T], snapshot: Callable[[], Restore] = lambda: restore_nothing
    ) -> T:
        """Run a function; return its result."""
        if key not in self.graphs:
            self.graphs.add(key)
            restore = snapshot()
            function()
            restore()
        return function()

    def clear(self) -> None:
        """Forget all functions."""
        self.graphs.clear()
