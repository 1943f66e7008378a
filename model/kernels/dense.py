"""Products with a whole weight."""

import torch
import torch.nn.functional as F

from .choice import suits
from .ending import Ending, finish


def multiply(
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
    ending = Ending(bias, gelu, residual, alpha)
    if weight.dtype != x.dtype or not suits(x, weight, bias, residual):
        return multiply_by_torch(x, weight, ending, out)
    from .device.launch import multiply as launch

    return launch("dense", x, (weight,), ending, out)


def multiply_by_torch(
    x: torch.Tensor, weight: torch.Tensor, ending: Ending, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Do the same with torch alone."""
    return finish(F.linear(x, weight, ending.bias), ending, out)
