"""The epilogue of a matrix product: bias, GELU and residual."""

from typing import Literal, NamedTuple

import torch

# The GELU's approximation by tanh, or the GELU itself.
Gelu = Literal["tanh", "exact"]


class Epilogue(NamedTuple):
    """act(product + bias) + alpha * residual.

    Attributes:
        bias: [O], or None.
        gelu: which GELU act is; None for the identity.
        residual: [B, O], or None.
        alpha: factor of the residual.
    """

    bias: torch.Tensor | None = None
    gelu: Gelu | None = None
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
    if epilogue.gelu is not None:
        torch.ops.aten.gelu_(product, approximate="tanh" if epilogue.gelu == "tanh" else "none")
    if epilogue.residual is not None:
        product.add_(epilogue.residual, alpha=epilogue.alpha)
    return product if out is None else out.copy_(product)
