"""Whether a kernel of ours or torch does the work, and with which tile."""

import functools
import importlib.util
import os
import warnings

import torch

from ..quantization.kernels import wants_gradient
from .tile import MOST_ROWS, Tile, default_tile
from .tuned import MATMUL, MATVEC

# GPUs of 2020 and later; bfloat16 and the copies that the kernels overlap came with them.
LEAST_CAPABILITY = (8, 0)
# GPUs of 2022 and later, on which a kernel can start while the one before it ends; (99, 0) would turn that off.
EARLY_CAPABILITY = (9, 0)


def suits(x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether a kernel of ours multiplies x [B, I], the others being the weight's parts, the bias and the residual."""
    tensors = (x, *(tensor for tensor in others if tensor is not None))
    if not (x.dim() == 2 and 1 <= len(x) <= MOST_ROWS and x.dtype.is_floating_point and x.element_size() in (2, 4)):
        return False
    return not any(wants_gradient(tensor) for tensor in tensors) and has_triton(x.device)


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton is there and works on `device`. The first call compiles: make it before a graph is captured."""
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return is_interpreted()
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    return compiles(device)


@functools.cache
def starts_early(device: torch.device) -> bool:
    """Whether a kernel may start while the one before it ends, and wait for its results by itself."""
    if device.type != "cuda" or is_interpreted():
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= EARLY_CAPABILITY


def is_interpreted() -> bool:
    """Whether Triton's own switch for running kernels on a CPU is on."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def compiles(device: torch.device) -> bool:
    """Whether Triton can compile and run a kernel; it needs a C compiler, say."""
    from .triton.launch import normalize

    try:
        row = torch.ones(1, 16, device=device)
        normalize(row, row[0], row[0], 1e-5)
    except Exception as error:  # whatever kind the missing part makes Triton raise
        warnings.warn(f"Triton does not work here, so torch does its work more slowly: {error}", stacklevel=2)
        return False
    return True


@functools.cache
def tile_for(kind: str, outputs: int, inputs: int, rows: int) -> Tile:
    """Return the tile for x [rows, inputs] and a weight of `kind` [outputs, inputs].

    All numbers of rows but one share a tile, so that a row's result is the same whatever the others are.
    """
    measured = (MATVEC if rows == 1 else MATMUL).get((kind, outputs, inputs))
    return measured or default_tile(kind, outputs, inputs, rows)
