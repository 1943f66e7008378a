"""Weights that were quantised before they were written, by the original's `quantize`, back to floating point.

Each row of a matrix has one scale: weight = q * scale. int8 holds one q a byte; int4 two, the one of the even column
in the high half.
"""

from functools import partial

import torch

from ..errors import CheckpointError
from .lazy import LazyTensors, Tensors, makers_of

SCALE = "_scale"
BITS = (4, 8)


def dequantize_tensors(tensors: Tensors, bits: int) -> Tensors:
    """Return `tensors` with each quantised matrix in its scale's dtype, and without the scales.

    Raises:
        CheckpointError: scales without a number of bits that we know, or a matrix of another dtype.
    """
    scales = [name for name in tensors if name.endswith(f".weight{SCALE}")]
    if not scales and not bits:
        return tensors
    if bits not in BITS:
        raise CheckpointError(
            f"The weights are quantised ({scales[0] if scales else 'says the configuration'}), but quantization_bit in "
            f"the configuration is {bits}; it should be 4 or 8."
        )
    makers = makers_of(tensors)
    for scale in scales:
        del makers[scale]
        name = scale.removesuffix(SCALE)
        makers[name] = partial(dequantize_one, tensors, name, bits)
    return LazyTensors(makers)


def dequantize_one(tensors: Tensors, name: str, bits: int) -> torch.Tensor:
    """Return the matrix called `name`."""
    if name not in tensors or tensors[name].dtype != torch.int8:
        raise CheckpointError(f"{name}{SCALE} is there, so {name} should hold int8; it does not.")
    return dequantize(tensors[name], tensors[name + SCALE], bits)


def dequantize(packed: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the matrix [out, in] in the dtype of `scale` [out] from int8 `packed` [out, in * bits / 8]."""
    whole = unpack_int4(packed) if bits == 4 else packed
    # The product of two numbers of half precision is exact in float32: rounded once.
    return (whole.float() * scale.float()[:, None]).to(scale.dtype)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Turn int8 [out, in / 2] with two signed halves a byte into int8 [out, in]."""
    high, low = packed >> 4, (packed << 4) >> 4
    return torch.stack((high, low), dim=-1).flatten(-2)
