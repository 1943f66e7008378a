"""What follows a product: bias, GELU and residual."""

from typing import NamedTuple

import torch
import torch.nn.functional as F


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
    """Do with torch what follows a product [B, O] that has its bias; return it, in `out` where one is given."""
    y = F.gelu(product, approximate="tanh") if ending.gelu else product
    if ending.residual is not None:
        y = torch.add(y, ending.residual, alpha=ending.alpha)
    return y if out is None else out.copy_(y)
