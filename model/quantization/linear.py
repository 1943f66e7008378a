"""Low-bit layers of a SAT network: linear ones, whose rows of 4 bits have groups, and the tokens' embeddings."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from ..kernels.linear import Called, Linear, bind_rounded
from ..kernels.torch_ops import QuantizedLinear, check_bits
from .rounding import group_count, round_weight


def empty_linear(
    inputs: int, outputs: int, bits: int, bias: nn.Parameter | None, device: torch.device | None = None
) -> QuantizedLinear:
    """Return a layer whose weights are still to be loaded.

    Raises:
        SettingError: weights cannot have so many bits.
    """
    check_bits(bits, inputs)
    return QuantizedLinear(inputs, outputs, bits, bias, device, groups=group_count(inputs) if bits == 4 else 0)


def bind_quantized(layer: Any) -> Linear:
    """Return how the decoder calls a low-bit layer of either network, or of an exported model of before.

    A row of 4 bits without groups is taken for groups of the same step.
    """
    if layer.weight.device.type == "cpu":
        return Called(layer)
    groups = getattr(layer, "weight_groups", None)
    if groups is None and layer.bits == 4:
        same = torch.tensor((1.0, 0.0), dtype=torch.bfloat16, device=layer.weight.device)  # step and zero
        groups = same.expand(layer.out_features, group_count(layer.in_features), 2).contiguous()
    return bind_rounded(layer.weight, layer.weight_scale.float(), groups, layer.bias)


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
        made = cls.of(round_weight(weight, bits), bits, bias)
        made.dtype = weight.dtype
        return made

    @property
    def num_embeddings(self) -> int:
        return self.out_features

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        rows, scale = F.embedding(token_ids, self.weight), self.weight_scale[token_ids]
        return (rows * scale[..., None]).to(self.dtype)

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move as the linear layers do, and note the dtype."""
        self.dtype = function(torch.empty(0, dtype=self.dtype, device=self.weight.device)).dtype
        super()._apply(function, recurse)
        return self
