"""Products with a whole weight."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F

from .choice import suits
from .ending import Ending, finish

# Up to so many rows, and in so many parts, see `Turned`.
FEW_ROWS, PARTS = 4, 8


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
    from .triton.launch import multiply as launch

    return launch("dense", x, (weight,), ending, out)


def multiply_by_torch(
    x: torch.Tensor, weight: torch.Tensor, ending: Ending, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Do the same with torch alone."""
    return finish(F.linear(x, weight, ending.bias), ending, out)


@functools.cache
def is_slow_for_few() -> bool:
    """Whether what torch calls for few rows is slow on this CPU: Intel's library, on one of AMD."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkl.is_available() and "AMD" in capabilities.get("cpu_name", "")


class Turned:
    """x [N, I] -> x @ weight.T + bias [N, O] by torch, the weight being turned once for all calls.

    Where few rows in float32 would be slow, they are multiplied the other way around, weight @ x.T, by parts of the
    weight. Where weights come from memory, that takes half the time for one row: `python -m benchmarks.products`.

    Args:
        weight: [O, I].
        bias: [O].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight.t(), bias
        turns = weight.device.type == "cpu" and weight.dtype == torch.float32 and is_slow_for_few()
        self.few = FEW_ROWS if turns else 0
        count = math.gcd(len(weight), PARTS)
        self.parts = weight.unflatten(0, (count, -1))
        self.biases = (weight.new_zeros(len(weight)) if bias is None else bias).view(count, -1, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.few:
            return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
        product = torch.baddbmm(self.biases, self.parts, x.t().expand(len(self.parts), -1, -1))
        return product.view(1, -1) if len(x) == 1 else product.flatten(0, 1).t().contiguous()
