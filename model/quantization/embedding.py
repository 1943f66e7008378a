"""The language model's token embeddings in 8 bits."""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from .linear import QuantizedLinear


class QuantizedEmbedding(QuantizedLinear):
    """Embeds tokens [...] as [..., D] from rows of 8 bits with a scale each, in the dtype that the model is cast to."""

    def __init__(
        self, inputs: int, outputs: int, bits: int, bias: nn.Parameter | None, device: torch.device | None = None
    ) -> None:
        super().__init__(inputs, outputs, bits, bias, device)
        self.dtype = torch.get_default_dtype()

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bits: int, bias: nn.Parameter | None = None) -> Self:
        """Return an embedding with a rounded copy of `weight` [V, D], which gives its dtype."""
        made = super().from_weight(weight, bits, bias)
        made.dtype = weight.dtype
        return made

    @property
    def num_embeddings(self) -> int:
        return self.out_features

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        rows, scale = F.embedding(token_ids, self.weight), self.weight_scale[token_ids]
        return (rows * scale[..., None]).to(self.dtype)

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "QuantizedEmbedding":
        """Move as the linear layers do, and note the dtype."""
        self.dtype = function(torch.empty(0, dtype=self.dtype, device=self.weight.device)).dtype
        super()._apply(function, recurse)
        return self
