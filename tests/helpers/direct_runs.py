"""A stand-in for CUDA graphs that calls the functions directly, on a CPU."""

from collections.abc import Callable, Hashable

from model.kernels.torch_ops import Restore, restore_nothing


class DirectRuns:
    """A stand-in for `CudaGraphs`: calls a function once more where a capture does, and undoes that call."""

    def __init__(self) -> None:
        self.keys: set[Hashable] = set()

    def run(
        self, key: Hashable, function: Callable[[], None], snapshot: Callable[[], Restore] = lambda: restore_nothing
    ) -> None:
        """Run a function."""
        if key not in self.keys:
            self.keys.add(key)
            restore = snapshot()
            function()
            restore()
        function()

    def clear(self) -> None:
        """Forget all functions."""
        self.keys.clear()
