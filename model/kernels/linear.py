"""Multiply activations by weights of 16, 8 or 4 bits, with bias, activation and residual in one call."""

import functools
import math
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .dispatch import has_triton, supports_triton_kernel
from .epilogue import Epilogue, apply_epilogue
from .torch_ops import quantized_linear

# Up to so many rows, and in so many parts, see `PretransposedLinear`.
MAX_TRANSPOSED_ROWS, NUM_BLOCKS = 4, 8


def multiply_dense(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    residual: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O] in the dtype of x.

    Args:
        x: [B, I] in float32, float16 or bfloat16.
        weight: [O, I] in the dtype of x.
        bias: [O].
        gelu: act is GELU with tanh, instead of nothing.
        residual: [B, O]; may be `out`.
        out: [B, O] in the dtype of x, to be filled and returned.
    """
    epilogue = Epilogue(bias, gelu, residual, alpha)
    if weight.dtype != x.dtype or not supports_triton_kernel(x, weight, bias, residual):
        return multiply_dense_by_torch(x, weight, epilogue, out)
    from .triton.launch import multiply as launch

    return launch("dense", x, (weight,), epilogue, out)


def multiply_dense_by_torch(
    x: torch.Tensor, weight: torch.Tensor, epilogue: Epilogue, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Do the same with torch alone."""
    return apply_epilogue(F.linear(x, weight, epilogue.bias), epilogue, out)


@functools.cache
def has_slow_small_matmul() -> bool:
    """Whether what torch calls for few rows is slow on this CPU: Intel's library, on one of AMD."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkl.is_available() and "AMD" in capabilities.get("cpu_name", "")


class PretransposedLinear:
    """x [N, I] -> x @ weight.T + bias [N, O] by torch, the weight being turned once for all calls.

    Where few rows in float32 would be slow, they are multiplied the other way around, weight @ x.T, by parts of the
    weight. Where weights come from memory, that takes half the time for one row: `python -m benchmarks.cpu_matmul`.

    Args:
        weight: [O, I].
        bias: [O].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight.t(), bias
        turns = weight.device.type == "cpu" and weight.dtype == torch.float32 and has_slow_small_matmul()
        self.few = MAX_TRANSPOSED_ROWS if turns else 0
        count = math.gcd(len(weight), NUM_BLOCKS)
        self.parts = weight.unflatten(0, (count, -1))
        self.biases = (weight.new_zeros(len(weight)) if bias is None else bias).view(count, -1, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.few:
            return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
        product = torch.baddbmm(self.biases, self.parts, x.t().expand(len(self.parts), -1, -1))
        return product.view(1, -1) if len(x) == 1 else product.flatten(0, 1).t().contiguous()


# Columns in a group; a thread reads 32 numbers at once, and a tile of several rows' product is one group wide.
GROUP_SIZES = (32, 64, 128)


def multiply_int4(
    x: torch.Tensor,
    pairs: torch.Tensor,
    scale: torch.Tensor,
    groups: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    residual: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O] in the dtype of x.

    Args:
        x: [B, I] in float32, float16 or bfloat16.
        pairs: int8 [O, I / 2].
        scale: float32 [O].
        groups: step and zero, bfloat16 [O, G, 2].
        bias: [O].
        gelu: act is GELU with tanh, instead of nothing.
        residual: [B, O]; may be `out`.
        out: [B, O] in the dtype of x, to be filled and returned.
    """
    epilogue = Epilogue(bias, gelu, residual, alpha)
    if x.shape[1] / groups.shape[1] not in GROUP_SIZES or not supports_triton_kernel(
        x, pairs, scale, groups, bias, residual
    ):
        return multiply_int4_by_torch(x, pairs, scale, groups, epilogue, out)
    from .triton.launch import multiply as launch

    return launch("int4", x, (pairs, scale, groups), epilogue, out)


def multiply_int4_by_torch(
    x: torch.Tensor,
    pairs: torch.Tensor,
    scale: torch.Tensor,
    groups: torch.Tensor,
    epilogue: Epilogue,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do the same with torch alone."""
    return apply_epilogue(quantized_linear(x, pairs, scale, groups, epilogue.bias, 4), epilogue, out)


# Numbers that are read as one integer: a row has a multiple of them.
INT8_PER_WORD = 4


def multiply_int8(
    x: torch.Tensor,
    numbers: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    residual: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O] in the dtype of x.

    Args:
        x: [B, I] in float32, float16 or bfloat16.
        numbers: int8 [O, I].
        scale: float32 [O].
        bias: [O].
        gelu: act is GELU with tanh, instead of nothing.
        residual: [B, O]; may be `out`.
        out: [B, O] in the dtype of x, to be filled and returned.
    """
    epilogue = Epilogue(bias, gelu, residual, alpha)
    if numbers.shape[1] % INT8_PER_WORD or not supports_triton_kernel(x, numbers, scale, bias, residual):
        return multiply_int8_by_torch(x, numbers, scale, epilogue, out)
    from .triton.launch import multiply as launch

    return launch("int8", x, (numbers, scale), epilogue, out)


def multiply_int8_by_torch(
    x: torch.Tensor, numbers: torch.Tensor, scale: torch.Tensor, epilogue: Epilogue, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Do the same with torch alone."""
    return apply_epilogue(quantized_linear(x, numbers, scale, None, epilogue.bias, 8), epilogue, out)


class Linear(Protocol):
    """act(x @ W.T + bias) + alpha * residual, for x [N, I]; act is the tanh-GELU or nothing."""

    def __call__(
        self, x: torch.Tensor, *, gelu: bool = False, residual: torch.Tensor | None = None, alpha: float = 1.0
    ) -> torch.Tensor: ...


class LinearAdapter:
    """Any function that maps [N, I] to [N, O], a tensor of its own with the bias in it."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(
        self, x: torch.Tensor, *, gelu: bool = False, residual: torch.Tensor | None = None, alpha: float = 1.0
    ) -> torch.Tensor:
        return apply_epilogue(self.function(x), Epilogue(None, gelu, residual, alpha), None)


def bind_dense(module: nn.Module) -> Linear:
    """Return how to call a layer with a whole weight [O, I] and perhaps a bias."""
    parts: Any = {"weight": module.weight, "bias": module.bias}
    if has_triton(parts["weight"].device):
        return partial(multiply_dense, **parts)
    return LinearAdapter(PretransposedLinear(**parts))


def bind_low_bit(
    numbers: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor | None, bias: torch.Tensor | None
) -> Linear:
    """Return how to call a layer with a weight of 8 bits, or with pairs of 4 bits in groups."""
    if groups is None:
        return partial(multiply_int8, numbers=numbers, scale=scale, bias=bias)
    return partial(multiply_int4, pairs=numbers, scale=scale, groups=groups, bias=bias)
