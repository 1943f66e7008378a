"""Linear layers that are not trained, for those who make gradients themselves: the product, and its way back.

Autograd and SAT's wrapping cost the host more for each call than a GPU takes for the product of a short batch.
"""

from typing import Any

import torch
from torch import nn

from ..checkpoint.nf4 import BLOCK, unpack
from ..quantization.nf4 import Nf4Linear, has_bitsandbytes
from . import sat_compat  # noqa: F401  (before sat)

# isort: split
from sat.mpu import ColumnParallelLinear, RowParallelLinear

LAYERS = (ColumnParallelLinear, RowParallelLinear, nn.Linear, Nf4Linear)


def is_frozen(layer: Any) -> bool:
    """Whether `multiply` may stand for a call of this layer, and `multiply_back` for autograd's way back.

    Not where it is trained, where other processes have a share of it, and where somebody watches its calls.
    """
    if type(layer) not in LAYERS or is_watched(layer):
        return False
    if any(
        weight.requires_grad or hasattr(weight, "ds_id") for weight in layer._parameters.values() if weight is not None
    ):
        return False
    if type(layer) is ColumnParallelLinear:
        return layer.output_size_per_partition == layer.output_size  # type: ignore[no-any-return]
    return type(layer) is not RowParallelLinear or layer.input_size_per_partition == layer.input_size


def is_watched(module: nn.Module) -> bool:
    """Whether hooks want to see the calls of a module itself."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def is_mixing(kind: str) -> bool:
    """Whether torch chooses the dtype of each product on this kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def multiply(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return what a frozen layer makes of x [.., I], in a new tensor [.., O]."""
    if isinstance(layer, Nf4Linear):
        return layer(x)  # type: ignore[no-any-return]
    if type(layer) is RowParallelLinear and layer.bias is not None and layer.final_bias:  # rounded as SAT does
        return nn.functional.linear(x, layer.weight) + layer.bias  # type: ignore[no-any-return]
    return nn.functional.linear(x, layer.weight, layer.bias)


def multiply_back(layer: Any, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient [.., I] of what a frozen layer was given, from that [.., O] of what it made."""
    return gradient @ (whole_weight(layer, gradient.dtype) if isinstance(layer, Nf4Linear) else layer.weight)


def whole_weight(layer: Nf4Linear, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight [O, I] of a layer of 4 bits."""
    if not has_bitsandbytes():
        return unpack(layer.packed, layer.scales, layer.shape).to(dtype)
    unpacked = torch.ops.bitsandbytes.dequantize_4bit
    return unpacked(layer.packed, layer.scales, BLOCK, "nf4", layer.shape, dtype)  # type: ignore[no-any-return]
