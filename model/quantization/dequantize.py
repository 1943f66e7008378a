"""Dequantize the weights of a checkpoint that was saved quantized.

The original's `quantize` uses one scale per row: weight = q * scale. An int8 byte holds one q; an int4 byte holds two,
that of the even column in the high half. Our checkpoints may also have groups of columns within each row, with a step
and a zero point each: weight = (q * step + zero) * scale. The token embeddings may be int8 if the matrices are int4.
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
BITS_KEY = "quantization_bit"  # checkpoint key
EMBEDDINGS = "transformer.word_embeddings.weight"


def read_bits(config: Mapping[str, Any], file: Path) -> int:
    """Return the bits per quantized weight from the configuration in `file`; 0 if it is not quantized."""
    bits = config.get(BITS_KEY) or 0
    if bits not in (0, *BITS):
        raise CheckpointError(f"{file}: quantization_bit is {reprlib.repr(bits)}; it should be 4 or 8, or 0 for none.")
    return int(bits)


def stored_quantized(tensors: Tensors) -> Tensors:
    """Select the quantized weights of `tensors`, with their scales and groups, in stored form."""
    weights = [name.removesuffix(SCALE_SUFFIX) for name in tensors if name.endswith(f".weight{SCALE_SUFFIX}")]
    components = (name + ending for name in weights for ending in ("", SCALE_SUFFIX, GROUPS_SUFFIX))
    return LazyTensors({name: partial(tensors.__getitem__, name) for name in components if name in tensors})


def dequantize_tensors(tensors: Tensors, bits: int, width: int) -> Tensors:
    """Return `tensors` with each quantized matrix dequantized to its scale's dtype, and without the scales.

    Args:
        bits: bits per weight of the matrices. The embeddings have 8 if their rows hold `width` bytes.
        width: hidden size of the language model.

    Raises:
        CheckpointError: there are scales but `bits` is not supported, or a quantized matrix is not int8.
    """
    scales = [name for name in tensors if name.endswith(f".weight{SCALE_SUFFIX}")]
    if not scales and not bits:
        return tensors
    if bits not in BITS:
        raise CheckpointError(
            f"The weights are quantized ({scales[0] if scales else 'by the configuration'}), but quantization_bit in "
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
    """Dequantize the matrix called `name`; it is 8-bit regardless of `bits` if its rows hold `columns` bytes."""
    if name not in tensors or tensors[name].dtype != torch.int8:
        raise CheckpointError(f"{name}{SCALE_SUFFIX} is present, so {name} should be int8; it is not.")
    with translate_shape_errors(name):
        bits = 8 if columns == tensors[name].shape[1] else bits
        scale = tensors[name + SCALE_SUFFIX]
        # The product of two half-precision numbers is exact in float32, so the result is rounded only once.
        return dequantize(tensors[name], scale, tensors.get(name + GROUPS_SUFFIX), bits, torch.float32).to(scale.dtype)
