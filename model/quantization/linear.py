"""A linear layer with weights of 8 or 4 bits."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from ..kernels.linear import Called, Linear, bind_rounded
from ..kernels.low_bit import (
    can_lay_out,
    dequantize,
    laid_out_linear,
    lay_out,
    quantized_linear,
    take_back,
    wants_gradient,
)
from .rounding import Rounded, check_bits, group_count, round_weight


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """Return a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)


class QuantizedLinear(nn.Module):
    """A linear layer [..., I] -> [..., O] with weights of few bits; those of a new one are zeros, to be filled.

    `weight`, `weight_scale` and `weight_groups` are as of `Rounded`, and keep their dtypes whatever the model is cast
    to. `lay_out` exchanges the numbers for what this machine's kernel wants; a state dict never shows them so.

    Raises:
        SettingError: weights cannot have so many bits.
    """

    weight_groups: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self, inputs: int, outputs: int, bits: int, bias: nn.Parameter | None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        check_bits(bits)
        self.in_features, self.out_features, self.bits = inputs, outputs, bits
        self.is_laid_out = self.is_filled = False
        self.weight = frozen(torch.zeros(outputs, inputs * bits // 8, dtype=torch.int8, device=device))
        self.weight_scale = frozen(torch.zeros(outputs, dtype=torch.float32, device=device))
        if bits == 4:
            shape = (outputs, group_count(inputs), 2)
            self.weight_groups = frozen(torch.zeros(shape, dtype=torch.bfloat16, device=device))
        else:
            self.register_parameter("weight_groups", None)
        self.register_parameter("bias", bias)

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bits: int, bias: nn.Parameter | None) -> Self:
        """Return a layer with a rounded copy of `weight` [O, I], on its device and ready to use."""
        rounded = round_weight(weight, bits)
        made = cls(weight.shape[1], weight.shape[0], bits, bias, torch.device("meta"))
        made.set_weight(rounded)
        made.lay_out()
        return made

    def set_weight(self, rounded: Rounded) -> None:
        """Take over a rounded weight."""
        self.weight, self.weight_scale = frozen(rounded.numbers), frozen(rounded.scale)
        self.weight_groups = None if rounded.groups is None else frozen(rounded.groups)
        self.is_laid_out = False

    def lay_out(self) -> None:
        """Put the numbers, which are there by now, into the order of this machine's kernel, where it has one."""
        self.is_filled = True
        if self.weight_groups is None or self.is_laid_out or not can_lay_out(self.in_features, self.weight_groups):
            return
        self.weight, self.weight_groups = map(frozen, lay_out(self.weight, self.weight_groups))
        self.is_laid_out = True

    def rounded(self) -> Rounded:
        """Return the weight in its portable order."""
        numbers = self.weight.detach()
        groups = None if self.weight_groups is None else self.weight_groups.detach()
        if self.is_laid_out and groups is not None:
            numbers, groups = take_back(numbers, groups, self.out_features)
        return Rounded(numbers, self.weight_scale.detach(), groups)

    def whole_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [O, I] in `dtype`."""
        return dequantize(*self.rounded(), self.bits, dtype)

    def bind(self) -> Linear:
        """Return how the decoder calls this layer."""
        if self.weight.device.type == "cpu":
            return Called(self)
        return bind_rounded(self.weight, self.weight_scale, self.weight_groups, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_laid_out:
            return quantized_linear(x, self.weight, self.weight_scale, self.weight_groups, self.bias, self.bits)
        if wants_gradient(x):
            return quantized_linear(x, *self.rounded(), self.bias, self.bits)
        return laid_out_linear(x, self.weight, self.weight_scale, self.weight_groups, self.bias)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "QuantizedLinear":
        """Move to another device or dtype as a module does, numbers and scales without a change of dtype."""
        if self.is_laid_out:
            self.set_weight(self.rounded())

        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = function(tensor)
            return moved if tensor is self.bias or moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        if self.is_filled:
            self.lay_out()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_laid_out:
            numbers, _, groups = self.rounded()
            destination.update({f"{prefix}weight": numbers, f"{prefix}weight_groups": groups})

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.is_laid_out:
            self.set_weight(self.rounded())
        super()._load_from_state_dict(*args, **kwargs)
        self.lay_out()


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
