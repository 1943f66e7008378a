"""Quantize weights to 8 or 4 bits, and replace the layers of a SAT network by layers with such weights.

See `kernels.torch_ops` for the format of a quantized weight. A row of a 4-bit linear layer has groups of columns.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SettingError
from ..kernels.linear import Linear, LinearAdapter, bind_low_bit
from ..kernels.torch_ops import QuantizedLinear, QuantizedWeight, check_bits, pack_int4, quantize_rows

GROUP_SIZE = 128
INT4_MIN, INT4_MAX = -8, 7
# Of a group's range: cutting off its extremes may bring the others closer. The best is chosen for each group.
CLIP_RATIOS = (1.0, 0.94, 0.88, 0.8)
# Elements rounded at once, so that a matrix of any size needs little beside itself.
CHUNK_ELEMENTS = 2**24


def group_count(columns: int) -> int:
    """Return G, the number of groups in a row: of 128 columns where that divides the row, else of fewer."""
    return columns // math.gcd(columns, GROUP_SIZE)


def quantize_weight(weight: torch.Tensor, bits: int) -> QuantizedWeight:
    """Return a weight [O, I] of any floating dtype in 8 or 4 bits, on its device.

    Raises:
        SettingError: weights cannot have so many bits.
    """
    check_bits(bits, weight.shape[1])
    quantizer = quantize_int8 if bits == 8 else quantize_int4
    height = max(1, CHUNK_ELEMENTS // weight.shape[1])
    parts = [quantizer(part.detach().float()) for part in weight.split(height)]
    numbers, scale = torch.cat([part.qweight for part in parts]), torch.cat([part.scale for part in parts])
    groups = [part.groups for part in parts if part.groups is not None]
    return QuantizedWeight(numbers, scale, torch.cat(groups) if groups else None)


def nonzero_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return half-precision scales [O] in float32, without zeros: rows of zeros become zeros with any scale."""
    return scale.float().where(scale > 0, 1.0)


def quantize_int8(weight: torch.Tensor) -> QuantizedWeight:
    """Round float32 [O, I] to 8 bits with a scale a row."""
    numbers, scale = quantize_rows(weight, 8)
    return QuantizedWeight(numbers, nonzero_scale(scale))


def quantize_int4(weight: torch.Tensor) -> QuantizedWeight:
    """Round float32 [O, I] to 4 bits with a step and a zero for each group, those of the least squared error."""
    scale = nonzero_scale(weight.abs().amax(dim=1).half())
    wanted = (weight / scale[:, None]).view(len(weight), group_count(weight.shape[1]), -1)
    low, high = wanted.amin(-1, keepdim=True), wanted.amax(-1, keepdim=True)
    best, groups = wanted, torch.empty(0)
    least = torch.full_like(low, math.inf)
    for ratio in CLIP_RATIOS:
        step = round_to_bfloat16((high - low) * (ratio / (INT4_MAX - INT4_MIN))).clamp(min=2.0**-30)  # not zero
        zero = round_to_bfloat16((high + low) / 2 + step / 2)  # the numbers' middle is -1/2
        numbers = ((wanted - zero) / step).round_().clamp_(INT4_MIN, INT4_MAX)
        error = (torch.addcmul(zero, numbers, step) - wanted).square_().sum(-1, keepdim=True)
        pair, better = torch.cat((step, zero), -1), error < least
        best = torch.where(better, numbers, best)
        groups = torch.where(better, pair, groups) if groups.numel() else pair
        least = torch.minimum(error, least)
    return QuantizedWeight(pack_int4(best.flatten(1).to(torch.int8)), scale, groups.to(torch.bfloat16))


def round_to_bfloat16(values: torch.Tensor) -> torch.Tensor:
    """Return float32 values rounded to what bfloat16 has."""
    return values.bfloat16().float()


def allocate_linear(
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
        return LinearAdapter(layer)
    groups = getattr(layer, "weight_groups", None)
    if groups is None and layer.bits == 4:
        same = torch.tensor((1.0, 0.0), dtype=torch.bfloat16, device=layer.weight.device)  # step and zero
        groups = same.expand(layer.out_features, group_count(layer.in_features), 2).contiguous()
    return bind_low_bit(layer.weight, layer.weight_scale.float(), groups, layer.bias)


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
        made = cls.from_quantized(quantize_weight(weight, bits), bits, bias)
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


M = TypeVar("M", bound=nn.Module)
# SAT's own linear layers. The picture's projection, an nn.Linear, keeps its precision, as with SAT's `quantize`.
LINEAR_CLASSES = ("ColumnParallelLinear", "RowParallelLinear")
EMBEDDING_CLASS = "VocabParallelEmbedding"
IMAGE_MIXIN = "eva"
EMBEDDING_BITS = 8


def quantize(  # public name
    model: M, weight_bit_width: int, *, quant_vision: bool = False, quant_embeddings: bool = False
) -> M:
    """Replace the linear layers in a SAT network, or in a part of one, by layers of 8 or 4 bits; return it.

    The layers of the language model and its head are replaced one by one, so that little memory is needed; layers
    that are quantised already stay. SAT's function of this name needs a GPU of 2022 or older and quantises the
    image part as well.

    Args:
        model: on any device, in any dtype.
        weight_bit_width: 8 or 4.
        quant_vision: quantise the layers of the image part, too. Answers suffer more than from all the others.
        quant_embeddings: quantise the tokens' embeddings, too, always to 8 bits.

    Raises:
        SettingError: weights cannot have so many bits, or `model` is one share of several.
    """
    check_bits(weight_bit_width)
    for parent, name, layer in list(find_linear_layers(model, quant_vision)):
        rounded = quantize_weight(layer.weight, weight_bit_width)
        setattr(parent, name, QuantizedLinear.from_quantized(rounded, weight_bit_width, layer.bias))
    for parent, name, layer in list(find_embeddings(model)) if quant_embeddings else ():
        setattr(parent, name, QuantizedEmbedding.from_weight(layer.weight, EMBEDDING_BITS, None))
    return model


def allocate_quantized(
    model: M, bits: int, device: torch.device, *, quant_vision: bool = False, quant_embeddings: bool = False
) -> M:
    """Do the same with a network whose weights are still to be loaded; those of few bits are zeros on `device`."""
    for parent, name, layer in list(find_linear_layers(model, quant_vision)):
        setattr(parent, name, allocate_linear(layer.input_size, layer.output_size, bits, layer.bias, device))
    for parent, name, layer in list(find_embeddings(model)) if quant_embeddings else ():
        sizes = layer.embedding_dim, layer.num_embeddings
        setattr(parent, name, QuantizedEmbedding(*sizes, EMBEDDING_BITS, None, device))
    return model


def find_linear_layers(model: nn.Module, quant_vision: bool) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, name in it, layer) of the linear layers to replace.

    Raises:
        SettingError: a layer is one share of several.
    """
    for path, parent, name, layer in iterate_layers(model):
        if type(layer).__name__ in LINEAR_CLASSES and (quant_vision or IMAGE_MIXIN not in path):
            check_unsharded(layer, (layer.output_size, layer.input_size))
            yield parent, name, layer


def find_embeddings(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, name in it, layer) of the tokens' embeddings, not of the image part's queries.

    Raises:
        SettingError: it is one share of several.
    """
    for path, parent, name, layer in iterate_layers(model):
        if type(layer).__name__ == EMBEDDING_CLASS and IMAGE_MIXIN not in path:
            check_unsharded(layer, (layer.num_embeddings, layer.embedding_dim))
            yield parent, name, layer


def iterate_layers(model: nn.Module) -> Iterator[tuple[list[str], nn.Module, str, Any]]:
    """Yield (parts of the parent's full name, parent, name in it, layer) of all layers."""
    for path, parent in model.named_modules():
        for name, layer in parent.named_children():
            yield path.split("."), parent, name, layer


def check_unsharded(layer: Any, shape: tuple[int, int]) -> None:
    """Raise SettingError for a layer whose rows or columns lie in other processes, too."""
    if tuple(layer.weight.shape) != shape:
        raise SettingError("A model that is shared out over several processes cannot be quantised. Load it in one.")


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the layers of few bits by their names."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def lay_out_all(model: nn.Module) -> None:
    """Make every layer whose numbers have been loaded ready to use."""
    for layer in quantized_layers(model).values():
        layer.prepack()
