"""Recording CUDA graphs; all recordings in a program share a stream, and nothing comes in between."""

import functools
import gc
import threading
from collections.abc import Callable, Iterator
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
