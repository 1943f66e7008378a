"""Layer norm of few rows, and layer norm of a sum."""

import torch
import torch.nn.functional as F

from .dispatch import has_triton
from .torch_ops import needs_gradient

# Maximum rows of activations for the kernel; for more, torch is as fast.
MAX_NORM_ROWS = 1024
# A program keeps a whole row in registers.
MAX_NORM_COLUMNS = 16384


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the layer norm of x [B, D], computed in float32.

    Each row minus its mean, divided by its standard deviation, times weight plus bias.

    Args:
        x: [B, D].
        weight: [D].
        bias: [D].
        eps: added to the variance.
        out: [B, D] in the dtype of x, to be filled and returned, or None.
    """
    if not 1 <= len(x) <= MAX_NORM_ROWS or not supports_kernel(x, weight, bias):
        y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return y if out is None else out.copy_(y)
    from .triton.launch import layer_norm as launch

    return launch(x, weight, bias, eps, out)


def add_layer_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x + y and its layer norm, both [B, D]; see `layer_norm`.

    The sum is rounded to the dtype of x before it is normalized, as by two operations.

    Args:
        x: [B, D].
        y: [B, D] in the dtype of x.
        weight: [D].
        bias: [D].
        eps: added to the variance.
    """
    if not len(x) or not supports_kernel(x, weight, bias) or needs_gradient(y):
        total = x + y
        return total, F.layer_norm(total, x.shape[-1:], weight, bias, eps)
    from .triton.launch import layer_norm as launch

    total = torch.empty_like(x)
    return total, launch(x, weight, bias, eps, added=y, total=total)


def supports_kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> bool:
    """Return whether the kernel can normalize x: a matrix of rows that fit into registers, without gradients."""
    is_matrix = x.dim() == 2 and x.shape[1] <= MAX_NORM_COLUMNS
    return is_matrix and not any(map(needs_gradient, (x, weight, bias))) and has_triton(x.device)
