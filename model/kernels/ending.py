"""What follows a product: bias, GELU and residual."""

from typing import NamedTuple

import torch


class Ending(NamedTuple):
    """act(product + bias) + alpha * residual.

    Attributes:
        bias: [O], or None.
        gelu: whether act is GELU with tanh, else nothing.
        residual: [B, O], or None.
        alpha: what the residual is multiplied by.
    """

    bias: torch.Tensor | None = None
    gelu: bool = False
    residual: torch.Tensor | None = None
    alpha: float = 1.0


def finish(product: torch.Tensor, ending: Ending, out: torch.Tensor | None) -> torch.Tensor:
    """Do with torch, in place, what follows a product [B, O] that has its bias; return it, in `out` where one is given.

    Of a long prompt, each copy of what the MLP holds inside would be 30 MB.
    """
    if ending.gelu:
        torch.ops.aten.gelu_(product, approximate="tanh")
    if ending.residual is not None:
        product.add_(ending.residual, alpha=ending.alpha)
    return product if out is None else out.copy_(product)
