"""Capture the engine's steps as CUDA graphs, for a few bucket sizes that work is padded to."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from ..kernels.torch_ops import Restore, capture, restore_nothing

T = TypeVar("T")


class CudaGraphs:
    """Captures functions without arguments as CUDA graphs at their first run, and replays them afterwards.

    The buffers that a function reads and writes must keep their addresses; call `clear` before they move.
    """

    def __init__(self) -> None:
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self.pool: Any = None

    def run(
        self,
        key: Hashable,
        function: Callable[[], T],
        snapshot: Callable[[], Restore] = lambda: restore_nothing,
    ) -> T:
        """Run `function`, by replaying its graph if it has been captured.

        Args:
            key: identifies the function and everything that its kernel launches depend on.
            function: is called twice to be captured.
            snapshot: is called before the capture; returns a function that undoes the effects of one call.

        Returns:
            The function's result; its tensors are valid until the next run of any function.

        Raises:
            RuntimeError: `function` contains an operation that cannot be captured, such as a synchronization.
        """
        if key not in self.graphs:
            self.graphs[key] = capture(function, self.pool, snapshot())
            self.pool = self.pool or self.graphs[key][0].pool()
        graph, result = self.graphs[key]
        graph.replay()
        return result  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Drop all graphs, because their buffers are about to move."""
        if self.graphs:
            torch.cuda.synchronize()  # a graph may still be running
        self.graphs, self.pool = {}, None


# Batch sizes of a decode step are padded to these.
BATCH_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# The KV cache's capacity grows in steps of this many tokens, so that it rarely grows. At full size in float16, a step
# takes 59 MB per slot.
CACHE_GROWTH = 128
# A captured decode step serves all sequence lengths up to a multiple of this many tokens.
ATTENTION_BUCKET = 256
# Prompts of together at most this many padded tokens are prefilled by one graph. A prompt beyond the longest bucket is
# prefilled by several graphs of a few layers each, so that decode steps can run in between.
MAX_PREFILL_TOKENS = 1024
LAYERS_PER_GRAPH = 4
# The rows of a longer prompt are padded to a multiple of this number.
LONG_PREFILL_STEP = 128
# Contexts are padded to these lengths: with <sop>, they fill complete tiles of the matrix products.
PREFILL_LENGTH_BUCKETS = (63, 127, 255, 511)
PREFILL_BATCH_BUCKETS = (1, 2, 4, 8, 16)


def pad_to_bucket(number: int, buckets: tuple[int, ...]) -> int:
    """Return the smallest bucket that holds `number`; `number` itself if it exceeds the last bucket."""
    return next((bucket for bucket in buckets if bucket >= number), number)


def round_up(number: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `number`."""
    return -(-number // step) * step


def fits_prefill_graph(lengths: list[int]) -> bool:
    """Return whether prompts with these context lengths are prefilled by one CUDA graph."""
    if len(lengths) > PREFILL_BATCH_BUCKETS[-1] or max(lengths) > PREFILL_LENGTH_BUCKETS[-1]:
        return False
    count = pad_to_bucket(len(lengths), PREFILL_BATCH_BUCKETS)
    return count * (pad_to_bucket(max(lengths), PREFILL_LENGTH_BUCKETS) + 1) <= MAX_PREFILL_TOKENS
