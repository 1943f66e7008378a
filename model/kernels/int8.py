"""Products with a weight of 8 bits, as model/quantization/kernels.py describes it."""

import torch

from ..quantization.kernels import quantized_linear
from .choice import suits
from .ending import Ending, finish

# Numbers that are read as one integer: a row has a multiple of them.
WORD = 4


def multiply(
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
    ending = Ending(bias, gelu, residual, alpha)
    if numbers.shape[1] % WORD or not suits(x, numbers, scale, bias, residual):
        return multiply_by_torch(x, numbers, scale, ending, out)
    from .triton.launch import multiply as launch

    return launch("int8", x, (numbers, scale), ending, out)


def multiply_by_torch(
    x: torch.Tensor, numbers: torch.Tensor, scale: torch.Tensor, ending: Ending, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Do the same with torch alone."""
    return finish(quantized_linear(x, numbers, scale, None, ending.bias, 8), ending, out)
