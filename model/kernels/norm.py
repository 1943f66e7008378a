"""Layer norm of a few rows."""

import torch
import torch.nn.functional as F

from .dispatch import has_triton
from .torch_ops import needs_gradient

# Of activations: with more of them torch is used, which does not mind the launch that is saved here.
MAX_NORM_ROWS = 128
# A row lies in one program's registers.
MAX_NORM_COLUMNS = 16384


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return each row of x [B, D] less its mean, over its deviation, times weight [D] plus bias [D]; float32 inside.

    Args:
        out: [B, D] in the dtype of x, to be filled and returned.
    """
    small = x.dim() == 2 and 1 <= len(x) <= MAX_NORM_ROWS and x.shape[1] <= MAX_NORM_COLUMNS
    if not small or any(map(needs_gradient, (x, weight, bias))) or not has_triton(x.device):
        y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return y if out is None else out.copy_(y)
    from .triton.launch import normalize

    return normalize(x, weight, bias, eps, out)
