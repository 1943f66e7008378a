"""Quantize frozen weights to NF4 for QLoRA: quantization, dequantization and the linear layer.

NF4 rounds to 16 quantiles of a normal distribution, with one scale per block of 64 weights. A QLoRA adapter is loaded
over the same quantized base weights as in training. Paper: https://arxiv.org/abs/2305.14314; appendix E lists the
levels.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..kernels.torch_ops import dequantize
from ..tensors import LazyTensors, Tensors, loaders_of
from .dequantize import EMBEDDINGS
from .quantize import EMBEDDING_BITS, quantize_weight

NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK_SIZE = 64
# The linear layers of the language model that QLoRA quantizes, as in SAT's LoraMixin.
QUANTIZED_LAYERS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def is_quantized(name: str) -> bool:
    """Return whether QLoRA quantizes the tensor of this name, with or without a LoRA wrapper around its layer."""
    plain = name.replace(".original.", ".")
    return plain.startswith("transformer.layers.") and plain.endswith(
        tuple(f"{matrix}.weight" for matrix in QUANTIZED_LAYERS)
    )


def quantize_nf4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight [O, I] to NF4.

    Returns:
        The indices of the levels, uint8 [O * I / 2, 1], two per byte and the first in the high half; and the scales,
        float32 [blocks], of blocks of 64 weights in row-major order, the last of which may be shorter.
    """
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(NF4_LEVELS, device=flat.device)
    scaled = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    indices = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    indices = torch.nn.functional.pad(indices.flatten()[: len(flat)], (0, len(flat) % 2)).view(-1, 2)
    return indices[:, :1] << 4 | indices[:, 1:], scales


def dequantize_nf4(packed: torch.Tensor, scales: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the float32 weight [O, I] from the output of `quantize_nf4`."""
    indices = torch.cat((packed >> 4, packed & 15), dim=1).flatten()[: shape.numel()]
    levels = torch.tensor(NF4_LEVELS, device=packed.device)[indices.int()]
    return (levels * scales.repeat_interleave(BLOCK_SIZE)[: shape.numel()]).view(shape)


def fake_quantize(weight: torch.Tensor) -> torch.Tensor:
    """Quantize a weight [O, I] and dequantize it again, in its own dtype."""
    return dequantize_nf4(*quantize_nf4(weight), weight.shape).to(weight.dtype)


def fake_quantize_tensors(tensors: Tensors, *, embeddings: bool) -> Tensors:
    """Return a model's tensors with the weights that QLoRA quantizes fake-quantized, each when it is accessed.

    Rows must be in the split order, as in training: a block may span two rows.

    Args:
        embeddings: whether the token embeddings were quantized to 8 bits as well.
    """
    loaders = loaders_of(tensors)
    loaders.update((name, partial(fake_quantize_tensor, tensors, name)) for name in filter(is_quantized, tensors))
    if embeddings:
        loaders[EMBEDDINGS] = partial(fake_quantize_embeddings, tensors)
    return LazyTensors(loaders)


def fake_quantize_tensor(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return the fake-quantized tensor called `name`."""
    return fake_quantize(tensors[name])


def fake_quantize_embeddings(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Quantize the token embeddings to 8 bits and dequantize them again."""
    weight = tensors[EMBEDDINGS]
    return dequantize(*quantize_weight(weight, EMBEDDING_BITS), EMBEDDING_BITS, weight.dtype)


class Nf4Linear(nn.Module):
    """A frozen linear layer [.., I] -> [.., O] with an NF4 weight; gradients flow to its input.

    The weight is neither a parameter nor in the state dict: it is the base model's, quantized again at each load. The
    product is computed by bitsandbytes if that is installed, otherwise by PyTorch.

    Args:
        weight: [O, I]; on the meta device if `set_weight` is called later.
        bias: [O], or None.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.packed, self.scales = quantize_nf4(weight)
        self.shape = weight.shape
        self.register_parameter("bias", bias)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Quantize a weight [O, I] on its device and take it over."""
        self.packed, self.scales = quantize_nf4(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if has_bitsandbytes():
            return matmul_by_bitsandbytes(x, self.packed, self.scales, self.shape, bias)
        product: torch.Tensor = DequantizedMatmul.apply(x, self.packed, self.scales, self.shape, bias)
        return product

    def dequantized(self) -> nn.Linear:
        """Return an nn.Linear with the dequantized weight, in the dtype of the bias, or float32 without a bias."""
        dtype = torch.float32 if self.bias is None else self.bias.dtype
        plain = nn.Linear(self.shape[1], self.shape[0], bias=False, device="meta")
        plain.weight = nn.Parameter(dequantize_nf4(self.packed, self.scales, self.shape).to(dtype), requires_grad=False)
        plain.register_parameter("bias", self.bias)
        return plain

    def extra_repr(self) -> str:
        return f"in_features={self.shape[1]}, out_features={self.shape[0]}, bits=4"

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Nf4Linear":
        """Move to another device as a module does; only the bias changes its dtype."""
        if not self.scales.is_meta:
            device = function(self.scales).device
            self.packed, self.scales = self.packed.to(device), self.scales.to(device)
        super()._apply(function, recurse)
        return self


@functools.cache
def has_bitsandbytes() -> bool:
    """Return whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def matmul_by_bitsandbytes(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, shape: torch.Size, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return x @ weight.T + bias, computed by bitsandbytes' kernels."""
    from bitsandbytes import matmul_4bit
    from bitsandbytes.functional import QuantState

    code = levels_on(x.device)
    state = QuantState(absmax=scales, shape=shape, code=code, blocksize=BLOCK_SIZE, quant_type="nf4", dtype=x.dtype)
    product: torch.Tensor = matmul_4bit(x, packed.t(), quant_state=state, bias=bias)
    return product


@functools.lru_cache
def levels_on(device: torch.device) -> torch.Tensor:
    """Return the NF4 levels as a tensor on a device."""
    return torch.tensor(NF4_LEVELS, device=device)


class DequantizedMatmul(torch.autograd.Function):
    """x @ weight.T + bias; saves the quantized weight for the backward pass instead of the dequantized one."""

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
        return nn.functional.linear(x, dequantize_nf4(packed, scales, shape).to(x.dtype), bias)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        packed, scales = context.saved_tensors
        weight = dequantize_nf4(packed, scales, context.shape)
        return gradients[0] @ weight.to(gradients[0].dtype), None, None, None, None
