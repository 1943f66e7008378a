"""Weights of 8 or 4 bits for the language model: less memory, the same layout as published int8 and int4 files.

Each row has its own scale, max|row| / 127 or / 7, in half precision. Two numbers of 4 bits share a byte: the one
with the even index is in the high half. Activations keep their dtype.
"""

from typing import Any

import torch
from torch import nn

from ..errors import SettingError
from ..quantization.kernels import dequantize, pack_pairs, quantized_linear

LARGEST = {4: 7, 8: 127}
LAYERS = (  # of each layer of the language model; all others keep their precision
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)


def quantize_rows(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 numbers [O, I] and half-precision scales [O] whose product is close to weight [O, I]."""
    largest = LARGEST[bits]
    scale = (weight.detach().abs().amax(dim=1).float() / largest).half()
    # A row of zeros, or of numbers too small for a half-precision scale, becomes zeros.
    divisor = scale.float().where(scale > 0, torch.inf)
    numbers = (weight.detach().float() / divisor[:, None]).round().clamp(-largest, largest)
    return numbers.to(torch.int8), scale


def round_weight(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of weight [O, I] as a layer holds them, and their scales [O]."""
    numbers, scale = quantize_rows(weight, bits)
    return (pack_pairs(numbers) if bits == 4 else numbers), scale


class QuantizedLinear(nn.Module):
    """A linear layer with weights of few bits, which a checkpoint is to fill."""

    def __init__(self, inputs: int, outputs: int, bits: int) -> None:
        super().__init__()
        if bits not in LARGEST:
            raise SettingError(f"Weights have 4 or 8 bits, not {bits!r}.")
        if bits == 4 and inputs % 2:
            raise SettingError(f"Weights of 4 bits are stored in pairs, but a row has {inputs} of them.")
        self.in_features, self.out_features, self.bits = inputs, outputs, bits
        packed = torch.empty(outputs, inputs * bits // 8, dtype=torch.int8)
        scale = torch.zeros(outputs, dtype=torch.float16)
        self.weight = nn.Parameter(packed, requires_grad=False)  # checkpoint key
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # checkpoint key
        self.bias = nn.Parameter(torch.zeros(outputs))  # checkpoint key

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int) -> "QuantizedLinear":
        """Return a quantised copy of `linear`, on its device."""
        with torch.device("meta"):
            made = cls(linear.in_features, linear.out_features, bits)
        numbers, scale = round_weight(linear.weight, bits)
        made.weight = nn.Parameter(numbers, requires_grad=False)
        made.weight_scale = nn.Parameter(scale, requires_grad=False)
        made.bias = linear.bias
        return made

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantizedLinear":
        scale = self.weight_scale.detach()
        super()._apply(fn, recurse)
        if not scale.is_meta:  # it follows the device, not the dtype: bfloat16 would lose some of its digits
            self.weight_scale = nn.Parameter(scale.to(self.weight.device), requires_grad=False)
        return self

    def whole_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [O, I] in `dtype`."""
        return dequantize(self.weight, self.weight_scale, None, self.bits, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x, self.weight, self.weight_scale, None, self.bias, self.bits)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def quantize_layers(layers: nn.ModuleList, bits: int) -> None:
    """Replace the linear layers of the language model's `layers` one by one, so that little memory is needed.

    Raises:
        SettingError: `bits` is not 4 or 8, or an adapter stands where a linear layer should.
    """
    for layer in layers:
        for name in LAYERS:
            linear: Any = layer.get_submodule(name)
            if type(linear) is not nn.Linear:
                raise SettingError(
                    f"{name} is a {type(linear).__name__}: quantise the model before adapters are attached."
                )
            parent, _, last = name.rpartition(".")
            setattr(layer.get_submodule(parent), last, QuantizedLinear.from_linear(linear, bits))
