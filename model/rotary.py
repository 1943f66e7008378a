"""Two-dimensional rotary positions of ChatGLM-6B.

Each half of an attention head turns by its own position: the first by the place in the prompt, the second by the
place in the answer. The frequencies are rounded to half precision, as every half-precision run of the original
has them, while the angles are computed in float32: in half they would lose 0.5 rad above position 512.
Paper: https://arxiv.org/abs/2104.09864.
"""

from typing import Any

import torch
from torch import nn

BASE = 10000.0


def rotary_frequencies(dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the float32 frequencies [dim / 2] of a half head of width `dim`, rounded to half precision."""
    exponents = torch.arange(0, dim, 2, device=device).float() / dim
    return (1.0 / BASE**exponents).half().float()


class RotaryEmbedding(nn.Module):
    """Tables of cosines and sines that do not change with the model's dtype.

    Stands where SAT has its own table, with the same call. Its buffer is saved for older readers and never loaded.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.inv_freq: torch.Tensor
        self.register_buffer("inv_freq", rotary_frequencies(dim))  # checkpoint key

    def _apply(self, fn: Any, recurse: bool = True) -> "RotaryEmbedding":
        super()._apply(fn, recurse)
        self.inv_freq = rotary_frequencies(self.dim, self.inv_freq.device)  # follow the device, not the dtype
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        return None

    def angles(self, positions: torch.Tensor) -> torch.Tensor:
        """Return float32 angles [..., dim] for integer `positions` [...]."""
        half = positions.float().unsqueeze(-1) * self.inv_freq
        return torch.cat((half, half), dim=-1)

    def forward(self, x: torch.Tensor, seq_len: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin [seq_len, 1, dim] in the dtype of `x`."""
        angles = self.angles(torch.arange(int(seq_len), device=x.device)).unsqueeze(1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
