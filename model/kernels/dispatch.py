"""Whether a kernel of ours or torch does the work."""

import functools
import importlib.util
import warnings

import torch

from .autotune import MAX_ROWS
from .capability import MIN_CAPABILITY, is_interpreted
from .torch_ops import needs_gradient


def supports_triton_kernel(x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether a kernel of ours multiplies x [B, I], the others being the weight's parts, the bias and the residual."""
    tensors = (x, *(tensor for tensor in others if tensor is not None))
    if not (x.dim() == 2 and 1 <= len(x) <= MAX_ROWS and x.dtype.is_floating_point and x.element_size() in (2, 4)):
        return False
    return not any(needs_gradient(tensor) for tensor in tensors) and has_triton(x.device)


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton is there and works on `device`. The first call compiles: make it before a graph is captured."""
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return is_interpreted()
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return False
    return compiles(device)


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
