"""Kernel dispatch: whether Triton or torch computes an operation, and whether kernels launch early (PDL)."""

import functools
import importlib.util
import os
import warnings
from typing import Any

import torch

from .torch_ops import needs_gradient

# Compute capability of GPUs of 2020 and later, which introduced bfloat16 and the asynchronous copies that kernels use.
MIN_CAPABILITY = (8, 0)
# Bytes of shared memory of a program on the supported GPUs with the least of it, those of capability 8.6 and 8.9.
MIN_SHARED_MEMORY = 99 * 1024
# GPUs of 2022 and later support Programmatic Dependent Launch (PDL); (99, 0) would turn it off.
PDL_CAPABILITY = (9, 0)


def supports_triton_kernel(x: torch.Tensor, *operands: torch.Tensor | None) -> bool:
    """Return whether a Triton kernel can multiply x [B, I].

    Args:
        x: the activations.
        operands: the weight's tensors, the bias and the residual; None is ignored.
    """
    tensors = (x, *(tensor for tensor in operands if tensor is not None))
    if not (x.dim() == 2 and len(x) >= 1 and x.dtype.is_floating_point and x.element_size() in (2, 4)):
        return False
    return not any(needs_gradient(tensor) for tensor in tensors) and has_triton(x.device)


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Return whether Triton is installed and works on `device`.

    Call it before a graph capture, because the first call compiles a kernel.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return is_interpreted()
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return False
    return compiles(device)


def compiles(device: torch.device) -> bool:
    """Return whether Triton can compile and run a kernel; it needs a C compiler, for example."""
    from .triton.norm import layer_norm

    try:
        row = torch.ones(1, 16, device=device)
        with torch.cuda.device_of(row):
            sizes = {"COLUMNS": 16, "BLOCK": 16, "num_warps": 1}
            layer_norm[(1,)](row, None, row[0], row[0], None, torch.empty_like(row), 1e-5, **sizes, **pdl_args(device))
    except Exception as error:  # Triton raises many kinds of errors, depending on which part is missing
        warnings.warn(f"Triton does not work here, so torch is used instead, which is slower: {error}", stacklevel=2)
        return False
    return True


@functools.cache
def supports_pdl(device: torch.device) -> bool:
    """Return whether a kernel may launch before the preceding kernel ends, and wait for its writes itself (PDL)."""
    if device.type != "cuda" or is_interpreted():
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= PDL_CAPABILITY


@functools.cache
def shared_memory_limit(device: torch.device) -> int:
    """Return the shared memory limit of a program in bytes; on a CPU, the limit of the smallest supported GPU."""
    if device.type != "cuda":
        return MIN_SHARED_MEMORY
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", MIN_SHARED_MEMORY)  # absent from some versions of torch


def pdl_args(device: torch.device, *constants: torch.Tensor | None) -> dict[str, Any]:
    """Return the launch arguments that enable PDL, where the device supports it.

    Args:
        device: runs the kernel.
        constants: tensors that the kernel reads before it waits for previous kernels. PDL is disabled if one is not
            contiguous: the copy that makes it contiguous is such a previous kernel.
    """
    if supports_pdl(device) and all(constant is None or constant.is_contiguous() for constant in constants):
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}


def is_interpreted() -> bool:
    """Return whether TRITON_INTERPRET=1 makes Triton interpret kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
