"""Products with a weight of 4 bits, as model/quantization/kernels.py describes it."""

import torch

from ..quantization.kernels import quantized_linear
from .choice import suits
from .ending import Ending, finish

# Columns in a group; a thread reads 32 numbers at once, and a tile of several rows' product is one group wide.
GROUP_SIZES = (32, 64, 128)


def multiply(
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
    ending = Ending(bias, gelu, residual, alpha)
    if x.shape[1] / groups.shape[1] not in GROUP_SIZES or not suits(x, pairs, scale, groups, bias, residual):
        return multiply_by_torch(x, pairs, scale, groups, ending, out)
    from .triton.launch import multiply as launch

    return launch("int4", x, (pairs, scale, groups), ending, out)


def multiply_by_torch(
    x: torch.Tensor,
    pairs: torch.Tensor,
    scale: torch.Tensor,
    groups: torch.Tensor,
    ending: Ending,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do the same with torch alone."""
    return finish(quantized_linear(x, pairs, scale, groups, ending.bias, 4), ending, out)
