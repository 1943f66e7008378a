"""What all recordings of CUDA graphs in a program share: a stream, their turn, and that nothing comes in between."""

import functools
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# One at a time: memory of one must not be taken for another's.
turn = threading.Lock()


@functools.cache
def side_stream(device: torch.device | int) -> torch.cuda.Stream:
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
