"""Fuse a frozen linear layer and its LoRA into one autograd function, with gradients for LoRA and the input alone.

y = original(x) + scaling * cat_i(B_i A_i dropped_x)
lora_a = cat_i(A_i) [n r, in];  lora_b = stack_i(B_i) [n, out / n, r]
"""

from typing import Any

import torch
from torch import nn

from ..quantization.nf4 import BLOCK_SIZE, Nf4Linear, dequantize_nf4, has_bitsandbytes
from . import compat as sat_compat  # noqa: F401  (before sat)

# isort: split
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

from sat.mpu import ColumnParallelLinear, RowParallelLinear

SUPPORTED_LAYERS = (ColumnParallelLinear, RowParallelLinear, nn.Linear, Nf4Linear)


def is_frozen(layer: Any) -> bool:
    """Return whether `frozen_forward` and `input_gradient` may replace this layer's forward and backward pass.

    False if the layer is trainable, sharded across processes, or has hooks.
    """
    if type(layer) not in SUPPORTED_LAYERS or has_hooks(layer):
        return False
    if any(
        weight.requires_grad or hasattr(weight, "ds_id") for weight in layer._parameters.values() if weight is not None
    ):
        return False
    if type(layer) is ColumnParallelLinear:
        is_unsharded: bool = layer.output_size_per_partition == layer.output_size
        return is_unsharded
    return type(layer) is not RowParallelLinear or layer.input_size_per_partition == layer.input_size


def has_hooks(module: nn.Module) -> bool:
    """Return whether forward or backward hooks are registered on the module itself."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def autocast_enabled(device_type: str) -> bool:
    """Return whether torch's autocast is enabled for this type of device."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def frozen_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the output [.., O] of a frozen layer for x [.., I], in a new tensor."""
    product: torch.Tensor
    if isinstance(layer, Nf4Linear):
        product = layer(x)
    elif type(layer) is RowParallelLinear and layer.bias is not None and layer.final_bias:  # rounded as SAT does
        product = nn.functional.linear(x, layer.weight) + layer.bias
    else:
        product = nn.functional.linear(x, layer.weight, layer.bias)
    return product


def input_gradient(layer: Any, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient [.., I] of a frozen layer's input, from the gradient [.., O] of its output."""
    return gradient @ (dequantized_weight(layer, gradient.dtype) if isinstance(layer, Nf4Linear) else layer.weight)


def dequantized_weight(layer: Nf4Linear, dtype: torch.dtype) -> torch.Tensor:
    """Return the dequantized weight [O, I] of a 4-bit layer."""
    if not has_bitsandbytes():
        return dequantize_nf4(layer.packed, layer.scales, layer.shape).to(dtype)
    dequantize = torch.ops.bitsandbytes.dequantize_4bit
    weight: torch.Tensor = dequantize(layer.packed, layer.scales, BLOCK_SIZE, "nf4", layer.shape, dtype)
    return weight


class FusedLoraFunction(torch.autograd.Function):
    """The output of a frozen layer plus its LoRA, as one autograd function."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        dropped_x: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        original: nn.Module,
        scaling: float,
    ) -> torch.Tensor:
        """Return y [.., out].

        Args:
            x: [.., in].
            dropped_x: x after dropout, the input of LoRA; None for x itself.
            lora_a, lora_b: LoRA's matrices, see the module.
            original: the frozen layer.
            scaling: alpha / rank.
        """
        rows = (x if dropped_x is None else dropped_x).flatten(0, -2)
        inner = split_partitions(rows @ lora_a.t(), len(lora_b))
        product = frozen_forward(original, x)
        split_partitions(product.flatten(0, -2), len(lora_b)).baddbmm_(inner, lora_b.transpose(1, 2), alpha=scaling)
        context.save_for_backward(rows, inner, lora_a, lora_b)
        context.original, context.scaling = original, scaling
        return product

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, lora_a, lora_b = context.saved_tensors
        given = split_partitions(gradients[0].flatten(0, -2), len(lora_b)).transpose(1, 2)  # [n, out / n, N]
        lora_b_gradient = scaled_bmm(given, inner, context.scaling)
        inner_gradient = scaled_bmm(lora_b.transpose(1, 2), given, context.scaling).flatten(0, 1)  # [n r, N]
        x_gradient = dropped_x_gradient = None
        if context.needs_input_grad[0]:
            x_gradient = input_gradient(context.original, gradients[0])
        if context.needs_input_grad[1]:
            dropped_x_gradient = (inner_gradient.t() @ lora_a).view(*gradients[0].shape[:-1], -1)
        elif x_gradient is not None:
            x_gradient.flatten(0, -2).addmm_(inner_gradient.t(), lora_a)
        return x_gradient, dropped_x_gradient, inner_gradient @ rows, lora_b_gradient, None, None


def split_partitions(x: torch.Tensor, partitions: int) -> torch.Tensor:
    """Return a view [n, N, C] of x [N, n * C]."""
    return x.view(len(x), partitions, x.shape[1] // partitions).transpose(0, 1)


def scaled_bmm(a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return scaling * a @ b for batches of matrices, in one operation."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scaling)


class CastLoraWeights(torch.autograd.Function):
    """Casts and stacks the LoRA matrices of many layers with one multi-tensor copy, instead of one copy per matrix."""

    @staticmethod
    def forward(
        context: Any, dtype: torch.dtype, partitions: Sequence[int], *lora_weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return lora_a and lora_b of each layer, in `dtype`.

        Args:
            partitions: n of each layer.
            lora_weights: for each layer, its n matrices A [r, in], then its n matrices B [out / n, r].
        """
        counts = [count for n in partitions for count in (n, n)]
        starts = accumulate(counts[:-1], initial=0)
        context.shapes = [(count, *lora_weights[start].shape) for count, start in zip(counts, starts, strict=True)]
        context.dtype = lora_weights[0].dtype
        stacked = allocate_flat(context.shapes, dtype, lora_weights[0].device)
        torch._foreach_copy_(unbind_all(stacked), list(lora_weights))
        return tuple(one if number % 2 else one.flatten(0, 1) for number, one in enumerate(stacked))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given = [gradient.reshape(shape) for gradient, shape in zip(gradients, context.shapes, strict=True)]
        wanted = unbind_all(allocate_flat(context.shapes, context.dtype, gradients[0].device))
        torch._foreach_copy_(wanted, unbind_all(given))
        return None, None, *wanted


def allocate_flat(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Return uninitialized tensors of these shapes, adjacent in one allocation."""
    sizes = [math.prod(shape) for shape in shapes]
    buffer = torch.empty(sum(sizes), dtype=dtype, device=device)
    return [part.view(shape) for part, shape in zip(buffer.split(sizes), shapes, strict=True)]


def unbind_all(stacked: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the slices of stacked tensors along their first dimension, in one list."""
    return [part for one in stacked for part in one.unbind()]
