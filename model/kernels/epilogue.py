"""What follows a product: bias, GELU and residual."""

from typing import NamedTuple

import torch


class Epilogue(NamedTuple):
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


def apply_epilogue(product: torch.Tensor, epilogue: Epilogue, out: torch.Tensor | None) -> torch.Tensor:
    """Do with torch, in place, what follows a product [B, O] that has its bias; return it, in `out` where one is given.

    Of a long prompt, each copy of what the MLP holds inside would be 30 MB.
    """
    if epilogue.gelu:
        torch.ops.aten.gelu_(product, approximate="tanh")
    if epilogue.residual is not None:
        product.add_(epilogue.residual, alpha=epilogue.alpha)
    return product if out is None else out.copy_(product)
