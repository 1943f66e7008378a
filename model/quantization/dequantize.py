"""Dequantize weights that were quantized before they were written.

The original's `quantize` gives each row of a matrix one scale: weight = q * scale. int8 holds one q a byte; int4 two,
the one of the even column in the high half. Ours may also have groups of columns within each row, each with a step
and a zero: weight = (q * step + zero) * scale. The tokens' embeddings may have int8 where the other matrices have int4.
"""

import reprlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..kernels.torch_ops import BITS, dequantize
from ..tensors import LazyTensors, Tensors, loaders_of, translate_shape_errors

SCALE_SUFFIX, GROUPS_SUFFIX = "_scale", "_groups"
EMBEDDINGS = "transformer.word_embeddings.weight"


def read_bits(config: Mapping[str, Any], file: Path) -> int:
    """Return the bits of quantised weights that the configuration in `file` tells of, 0 for none."""
    bits = config.get("quantization_bit") or 0
    if bits not in (0, *BITS):
        raise CheckpointError(f"{file}: quantization_bit is {reprlib.repr(bits)}; it should be 4 or 8, or 0 for none.")
    return int(bits)


def stored_quantized(tensors: Tensors) -> Tensors:
    """Return the quantised weights among `tensors`, with their scales and groups, as they are stored."""
    weights = [name.removesuffix(SCALE_SUFFIX) for name in tensors if name.endswith(f".weight{SCALE_SUFFIX}")]
    parts = (name + ending for name in weights for ending in ("", SCALE_SUFFIX, GROUPS_SUFFIX))
    return LazyTensors({name: partial(tensors.__getitem__, name) for name in parts if name in tensors})


def dequantize_tensors(tensors: Tensors, bits: int, width: int) -> Tensors:
    """Return `tensors` with each quantised matrix in its scale's dtype, and without the scales.

    Args:
        bits: of a weight, but for the embeddings, whose rows of `width` numbers tell.

    Raises:
        CheckpointError: scales without a number of bits that we know, or a matrix of another dtype.
    """
    scales = [name for name in tensors if name.endswith(f".weight{SCALE_SUFFIX}")]
    if not scales and not bits:
        return tensors
    if bits not in BITS:
        raise CheckpointError(
            f"The weights are quantised ({scales[0] if scales else 'says the configuration'}), but quantization_bit in "
            f"the configuration is {bits}; it should be 4 or 8."
        )
    loaders = loaders_of(tensors)
    for scale in scales:
        del loaders[scale]
        name = scale.removesuffix(SCALE_SUFFIX)
        loaders.pop(name + GROUPS_SUFFIX, None)
        loaders[name] = partial(dequantize_tensor, tensors, name, width if name.endswith(EMBEDDINGS) else None, bits)
    return LazyTensors(loaders)


def dequantize_tensor(tensors: Tensors, name: str, columns: int | None, bits: int) -> torch.Tensor:
    """Return the matrix called `name`; where `columns` are given, they tell its bits."""
    if name not in tensors or tensors[name].dtype != torch.int8:
        raise CheckpointError(f"{name}{SCALE_SUFFIX} is there, so {name} should hold int8; it does not.")
    with translate_shape_errors(name):
        bits = 8 if columns == tensors[name].shape[1] else bits
        scale = tensors[name + SCALE_SUFFIX]
        # The product of two numbers of half precision is exact in float32: rounded once.
        return dequantize(tensors[name], scale, tensors.get(name + GROUPS_SUFFIX), bits, torch.float32).to(scale.dtype)
