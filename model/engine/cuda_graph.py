"""Capture the engine's steps as CUDA graphs, for a few sizes that work is padded to."""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..kernels.torch_ops import Restore, capture, restore_nothing


class CudaGraphs:
    """Records functions that take and return nothing, each at its first call, and replays them afterwards.

    What they read and write must stay where it is.
    """

    def __init__(self) -> None:
        self.graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.pool: Any = None

    def run(
        self, key: Hashable, function: Callable[[], None], snapshot: Callable[[], Restore] = lambda: restore_nothing
    ) -> None:
        """Run `function`, from its graph if there is one.

        Args:
            key: names the function with all that its kernels depend on.
            function: is called twice to be recorded.
            remember: is called before that, and returns what undoes the effects of a call.

        Raises:
            RuntimeError: `function` does what cannot be recorded, such as waiting for the device.
        """
        if key not in self.graphs:
            self.graphs[key], _ = capture(function, self.pool, snapshot())
            self.pool = self.pool or self.graphs[key].pool()
        self.graphs[key].replay()

    def clear(self) -> None:
        """Drop all graphs, because what they read and write is to move."""
        if self.graphs:
            torch.cuda.synchronize()  # one may be running
        self.graphs, self.pool = {}, None


# Rows that are computed together.
BATCH_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
# Room for tokens grows in these steps, so that it seldom has to; 57 MB each at full size.
CACHE_GROWTH = 128
# A graph of a step serves rows up to the next multiple of these tokens.
ATTENTION_BUCKET = 256
# Prompts of up to so many tokens, padded and all together, are read as one: more would be no faster, and the CPU starts
# the kernels of longer ones in less time than a GPU takes for them.
MAX_PREFILL_TOKENS = 512
# Contexts are padded to these lengths, with whose <sop> they fill whole tiles of the products.
PREFILL_LENGTH_BUCKETS = (63, 127, 255, MAX_PREFILL_TOKENS - 1)
PREFILL_BATCH_BUCKETS = (1, 2, 4, 8)


def pad_to_bucket(number: int, sizes: tuple[int, ...]) -> int:
    """Return the next of `sizes`, or `number` beyond the last."""
    return next((size for size in sizes if size >= number), number)


def round_up(number: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-number // step) * step


def fits_prefill_graph(lengths: list[int]) -> bool:
    """Whether prompts with contexts of these lengths are to be read as one."""
    size = pad_to_bucket(len(lengths), PREFILL_BATCH_BUCKETS) * (
        pad_to_bucket(max(lengths), PREFILL_LENGTH_BUCKETS) + 1
    )
    return len(lengths) <= PREFILL_BATCH_BUCKETS[-1] and size <= MAX_PREFILL_TOKENS
