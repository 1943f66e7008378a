"""The epilogue of a matrix product: bias, GELU and residual."""

from typing import NamedTuple

import torch


class Epilogue(NamedTuple):
    """act(product + bias) + alpha * residual.

    Attributes:
        bias: [O], or None.
        gelu: whether act is the tanh-GELU instead of the identity.
        residual: [B, O], or None.
        alpha: factor of the residual.
    """

    bias: torch.Tensor | None = None
    gelu: bool = False
    residual: torch.Tensor | None = None
    alpha: float = 1.0


def apply_epilogue(product: torch.Tensor, epilogue: Epilogue, out: torch.Tensor | None) -> torch.Tensor:
    """Apply an epilogue with torch, in place, to a product that already includes the bias; return the result.

    In place, because each copy of the MLP's inner activations would take 30 MB for a long prompt.

    Args:
        product: [B, O]; modified.
        epilogue: its bias is ignored.
        out: [B, O], where the result is copied to, or None.
    """
    if epilogue.gelu:
        torch.ops.aten.gelu_(product, approximate="tanh")
    if epilogue.residual is not None:
        product.add_(epilogue.residual, alpha=epilogue.alpha)
    return product if out is None else out.copy_(product)
