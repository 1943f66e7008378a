"""Layer norm of few rows."""

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
    small = x.dim() == 2 and 1 <= len(x) <= MAX_NORM_ROWS and x.shape[1] <= MAX_NORM_COLUMNS
    if not small or any(map(needs_gradient, (x, weight, bias))) or not has_triton(x.device):
        y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return y if out is None else out.copy_(y)
    from .triton.launch import layer_norm as launch

    return launch(x, weight, bias, eps, out)
