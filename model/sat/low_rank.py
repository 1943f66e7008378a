"""Compute LoRA beside a frozen weight: all parts of a layer at once, with gradients of the factors alone.

y = original(x) + scaling * cat_i(B_i A_i seen)          down = cat_i(A_i) [n r, in];  up = stack_i(B_i) [n, out / n, r]
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
        is_whole: bool = layer.output_size_per_partition == layer.output_size
        return is_whole
    return type(layer) is not RowParallelLinear or layer.input_size_per_partition == layer.input_size


def is_watched(module: nn.Module) -> bool:
    """Whether hooks want to see the calls of a module itself."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def is_mixing(kind: str) -> bool:
    """Whether torch chooses the dtype of each product on this kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def multiply(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return what a frozen layer makes of x [.., I], in a new tensor [.., O]."""
    product: torch.Tensor
    if isinstance(layer, Nf4Linear):
        product = layer(x)
    elif type(layer) is RowParallelLinear and layer.bias is not None and layer.final_bias:  # rounded as SAT does
        product = nn.functional.linear(x, layer.weight) + layer.bias
    else:
        product = nn.functional.linear(x, layer.weight, layer.bias)
    return product


def multiply_back(layer: Any, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient [.., I] of what a frozen layer was given, from that [.., O] of what it made."""
    return gradient @ (whole_weight(layer, gradient.dtype) if isinstance(layer, Nf4Linear) else layer.weight)


def whole_weight(layer: Nf4Linear, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight [O, I] of a layer of 4 bits."""
    if not has_bitsandbytes():
        return dequantize_nf4(layer.packed, layer.scales, layer.shape).to(dtype)
    unpacked = torch.ops.bitsandbytes.dequantize_4bit
    weight: torch.Tensor = unpacked(layer.packed, layer.scales, BLOCK_SIZE, "nf4", layer.shape, dtype)
    return weight


class LowRankProduct(torch.autograd.Function):
    """A frozen layer's product and LoRA's, as a single step of autograd."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        seen: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        original: nn.Module,
        scaling: float,
    ) -> torch.Tensor:
        """Return y [.., out].

        Args:
            x: [.., in].
            seen: what LoRA sees in its place; None for the same.
            down, up: LoRA's factors.
            original: the layer.
            scaling: alpha / rank.
        """
        rows = (x if seen is None else seen).flatten(0, -2)
        inner = by_part(rows @ down.t(), len(up))
        product = multiply(original, x)
        by_part(product.flatten(0, -2), len(up)).baddbmm_(inner, up.transpose(1, 2), alpha=scaling)
        context.save_for_backward(rows, inner, down, up)
        context.original, context.scaling = original, scaling
        return product

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, down, up = context.saved_tensors
        given = by_part(gradients[0].flatten(0, -2), len(up)).transpose(1, 2)  # [n, out / n, N]
        ups = scaled_product(given, inner, context.scaling)
        inner = scaled_product(up.transpose(1, 2), given, context.scaling).flatten(0, 1)  # [n r, N]
        x = seen = None
        if context.needs_input_grad[0]:
            x = multiply_back(context.original, gradients[0])
        if context.needs_input_grad[1]:
            seen = (inner.t() @ down).view(*gradients[0].shape[:-1], -1)
        elif x is not None:
            x.flatten(0, -2).addmm_(inner.t(), down)
        return x, seen, inner @ rows, ups, None, None


def by_part(x: torch.Tensor, parts: int) -> torch.Tensor:
    """Return [N, n * C] as [n, N, C], where it is."""
    return x.view(len(x), parts, x.shape[1] // parts).transpose(0, 1)


def scaled_product(a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return scaling * a @ b of batches of matrices, in one step."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scaling)


class FactorCopies(torch.autograd.Function):
    """The factors of many layers in one dtype: two tensors for each, by one copy instead of one or more a factor."""

    @staticmethod
    def forward(
        context: Any, dtype: torch.dtype, parts: Sequence[int], *factors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return down and up of each layer.

        Args:
            parts: n of each layer.
            factors: of each layer n times A [r, in], then n times B [out / n, r].
        """
        counts = [count for n in parts for count in (n, n)]
        starts = accumulate(counts[:-1], initial=0)
        context.shapes = [(count, *factors[start].shape) for count, start in zip(counts, starts, strict=True)]
        context.dtype = factors[0].dtype
        made = room_for(context.shapes, dtype, factors[0].device)
        torch._foreach_copy_(one_by_one(made), list(factors))
        return tuple(whole if number % 2 else whole.flatten(0, 1) for number, whole in enumerate(made))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given = [gradient.reshape(shape) for gradient, shape in zip(gradients, context.shapes, strict=True)]
        wanted = one_by_one(room_for(context.shapes, context.dtype, gradients[0].device))
        torch._foreach_copy_(wanted, one_by_one(given))
        return None, None, *wanted


def room_for(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """Return tensors of these shapes, still to be filled, one after another in one piece of memory."""
    sizes = [math.prod(shape) for shape in shapes]
    room = torch.empty(sum(sizes), dtype=dtype, device=device)
    return [place.view(shape) for place, shape in zip(room.split(sizes), shapes, strict=True)]


def one_by_one(wholes: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return what stacked tensors hold."""
    return [part for whole in wholes for part in whole.unbind()]
