"""A linear layer whose frozen weight is kept in NF4's 4 bits, for QLoRA; see `model.checkpoint.nf4`."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..checkpoint.nf4 import BLOCK, LEVELS, pack, unpack


class Nf4Linear(nn.Module):
    """A linear layer [.., I] -> [.., O] that is not trained; gradients pass through it.

    Its weight is no parameter and in no state dict: it is the base model's, rounded anew whenever it is loaded.
    Multiplied by bitsandbytes where that is installed, else by PyTorch.

    Args:
        weight: [O, I]; one without data is to be given later by `set_weight`.
        bias: [O], or None.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.packed, self.scales = pack(weight)
        self.shape = weight.shape
        self.register_parameter("bias", bias)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Take a weight [O, I], rounded on the device that it is on."""
        self.packed, self.scales = pack(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if has_bitsandbytes():
            return multiply(x, self.packed, self.scales, self.shape, bias)
        return UnpackedProduct.apply(x, self.packed, self.scales, self.shape, bias)  # type: ignore[no-any-return]

    def dequantized(self) -> nn.Linear:
        """Return an ordinary layer with the rounded weight, in the bias's dtype if there is one."""
        dtype = torch.float32 if self.bias is None else self.bias.dtype
        plain = nn.Linear(self.shape[1], self.shape[0], bias=False, device="meta")
        plain.weight = nn.Parameter(unpack(self.packed, self.scales, self.shape).to(dtype), requires_grad=False)
        plain.register_parameter("bias", self.bias)
        return plain

    def extra_repr(self) -> str:
        return f"in_features={self.shape[1]}, out_features={self.shape[0]}, bits=4"

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Nf4Linear":
        """Move to another device as a module does; a change of dtype is the bias's alone."""
        if not self.scales.is_meta:
            device = function(self.scales).device
            self.packed, self.scales = self.packed.to(device), self.scales.to(device)
        return super()._apply(function, recurse)  # type: ignore[no-any-return]


@functools.cache
def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def multiply(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, shape: torch.Size, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the product by bitsandbytes' kernels."""
    from bitsandbytes import matmul_4bit
    from bitsandbytes.functional import QuantState

    code = levels_on(x.device)
    state = QuantState(absmax=scales, shape=shape, code=code, blocksize=BLOCK, quant_type="nf4", dtype=x.dtype)
    return matmul_4bit(x, packed.t(), quant_state=state, bias=bias)  # type: ignore[no-any-return]


@functools.lru_cache
def levels_on(device: torch.device) -> torch.Tensor:
    """Return NF4's levels on a device."""
    return torch.tensor(LEVELS, device=device)


class UnpackedProduct(torch.autograd.Function):
    """x @ weight.T + bias, which keeps the weight's few bits for the way back instead of the whole weight."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        packed: torch.Tensor,
        scales: torch.Tensor,
        shape: torch.Size,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        context.save_for_backward(packed, scales)
        context.shape = shape
        return nn.functional.linear(x, unpack(packed, scales, shape).to(x.dtype), bias)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        packed, scales = context.saved_tensors
        weight = unpack(packed, scales, context.shape)
        return gradients[0] @ weight.to(gradients[0].dtype), None, None, None, None
