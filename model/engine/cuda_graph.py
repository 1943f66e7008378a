"""Recording CUDA graphs; all recordings in a program share a stream, and nothing comes in between."""

import functools
import gc
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Undo = Callable[[], None]
# One at a time: memory of one must not be taken for another's.
turn = threading.Lock()


def nothing() -> None:
    """Undo what has no lasting effect."""


@functools.cache
def side_stream(device: int) -> torch.cuda.Stream:
    """Return the stream on which everything is recorded: cuBLAS keeps 32 MB for each that it was ever used on."""
    return torch.cuda.Stream(device)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Warm up and record in the block: no other thread does, and no garbage is collected.

    A graph that nobody needs any more may wait for the collector; to destroy it would spoil the recording.
    """
    with turn:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def record(function: Callable[[], T], pool: Any = None, undo: Undo = nothing) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record a function on the current device; return its graph, and what it returned while it was recorded.

    Args:
        function: is called twice: in the first call libraries allocate and choose kernels.
        pool: of another graph, whose memory is used again; the two must not run at the same time.
        undo: undoes the effects of the first call.

    Raises:
        RuntimeError: `function` does what cannot be recorded, such as waiting for the device.
    """
    with undisturbed():
        here, side = torch.cuda.current_stream(), side_stream(torch.cuda.current_device())
        side.wait_stream(here)
        with torch.cuda.stream(side):
            function()
            undo()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            result = function()
    return graph, result


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


# Rows that are computed together.
COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
# Room for tokens grows in these steps, so that it seldom has to; 57 MB each at full size.
ROOM_STEP = 128
# A graph of a step serves rows up to the next multiple of these tokens.
REACH_STEP = 256
# Prompts of up to so many tokens, padded and all together, are read as one: more would be no faster, and the CPU starts
# the kernels of longer ones in less time than a GPU takes for them.
MOST_TOGETHER = 512
# Contexts are padded to these lengths, with whose <sop> they fill whole tiles of the products.
LENGTHS = (63, 127, 255, MOST_TOGETHER - 1)
PROMPTS = (1, 2, 4, 8)


def padded(number: int, sizes: tuple[int, ...]) -> int:
    """Return the next of `sizes`, or `number` beyond the last."""
    return next((size for size in sizes if size >= number), number)


def round_up(number: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-number // step) * step


def fits_together(lengths: list[int]) -> bool:
    """Whether prompts with contexts of these lengths are to be read as one."""
    size = padded(len(lengths), PROMPTS) * (padded(max(lengths), LENGTHS) + 1)
    return len(lengths) <= PROMPTS[-1] and size <= MOST_TOGETHER
