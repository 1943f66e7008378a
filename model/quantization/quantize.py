"""Quantize weights to 8 or 4 bits, and replace the layers of a SAT network by quantized layers.

`kernels.torch_ops` defines the format of a quantized weight. Here, 8-bit weights have one scale per row, and 4-bit
weights have a step and a zero point per group of columns as well.
"""

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SettingError
from ..kernels.linear import Linear, LinearAdapter, bind_low_bit
from ..kernels.torch_ops import (
    BLOCK_ELEMENTS as BLOCK_ELEMENTS,  # its former name was of this module
    QuantizedLinear,
    QuantizedWeight,
    check_bits,
    pack_int4,
    quantize_rows,
    row_blocks,
)

GROUP_SIZE = 128
INT4_MIN, INT4_MAX = -8, 7
# Fractions of a group's value range to cover: clipping outliers may reduce the error of the other values. Each group
# gets the fraction with the least squared error.
CLIP_RATIOS = (1.0, 0.94, 0.88, 0.8)


def group_count(columns: int) -> int:
    """Return G, the number of groups per row. The group size is the greatest common divisor of `columns` and 128."""
    return columns // math.gcd(columns, GROUP_SIZE)


def quantize_weight(weight: torch.Tensor, bits: int) -> QuantizedWeight:
    """Quantize a weight [O, I] of any floating dtype to 8 or 4 bits, on its device.

    Raises:
        SettingError: `bits` is not supported, or not for this number of columns.
    """
    check_bits(bits, weight.shape[1])
    return quantize_int8(weight) if bits == 8 else quantize_int4(weight)


def nonzero_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return half-precision scales [O] in float32, zeros replaced by 1: a zero row is zero with any scale."""
    return scale.float().where(scale > 0, 1.0)


def quantize_int8(weight: torch.Tensor) -> QuantizedWeight:
    """Quantize a weight [O, I] to 8 bits, with one scale per row."""
    qweight, scale = quantize_rows(weight, 8)
    return QuantizedWeight(qweight, nonzero_scale(scale))


def quantize_int4(weight: torch.Tensor) -> QuantizedWeight:
    """Quantize a weight [O, I] to 4 bits; each group's step and zero point minimize its squared error."""
    weight = weight.detach()
    (rows, columns), device = weight.shape, weight.device
    qweight = torch.empty(rows, columns // 2, dtype=torch.int8, device=device)
    groups = torch.empty(rows, group_count(columns), 2, dtype=torch.bfloat16, device=device)
    scale = torch.empty(rows, device=device)
    for block in row_blocks(weight, columns):
        scale[block], groups[block], rounded = quantize_block(weight[block].float(), groups.shape[1])
        qweight[block] = pack_int4(rounded)
    return QuantizedWeight(qweight, scale, groups)


def quantize_block(weight: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize a float32 weight [O, I] of `count` groups per row, G.

    Returns:
        Scales [O], group scales and zero points [O, G, 2], and 4-bit numbers, int8 [O, I].
    """
    scale = nonzero_scale(weight.abs().amax(dim=1).half())
    wanted = (weight / scale[:, None]).unflatten(1, (count, -1))
    low, high = wanted.amin(-1, keepdim=True), wanted.amax(-1, keepdim=True)
    scratch = torch.empty_like(wanted)  # all large results go there: allocating memory would take more time
    candidates = clip_ranges(low, high)
    errors = torch.stack([squared_error(wanted, groups, scratch) for groups in candidates])
    best = errors.argmin(0, keepdim=True)  # the first of equal errors
    groups = candidates.gather(0, best.expand(-1, -1, -1, 2)).squeeze(0)
    return scale, groups, round_to_groups(wanted, groups, scratch).flatten(1).to(torch.int8)


def clip_ranges(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return group scales and zero points [R, O, G, 2] for each clip ratio of the ranges `low` to `high` [O, G, 1]."""
    ratios = [ratio / (INT4_MAX - INT4_MIN) for ratio in CLIP_RATIOS]
    span = (high - low) * torch.tensor(ratios, dtype=low.dtype, device=low.device).view(-1, 1, 1, 1)
    step = round_to_bfloat16(span).clamp_(min=2.0**-30)  # avoids division by zero
    zero = round_to_bfloat16((high + low) / 2 + step / 2)  # the middle of -8..7 is -1/2
    return torch.cat((step, zero), -1)


def round_to_groups(wanted: torch.Tensor, groups: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Round values [O, G, N] to the 4-bit numbers of their groups [O, G, 2], in `out`."""
    step, zero = groups.split(1, -1)
    return torch.sub(wanted, zero, out=out).div_(step).round_().clamp_(INT4_MIN, INT4_MAX)


def squared_error(wanted: torch.Tensor, groups: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Return the squared error [O, G, 1] of quantizing values [O, G, N] with `groups` [O, G, 2]."""
    step, zero = groups.split(1, -1)
    rounded = round_to_groups(wanted, groups, scratch)
    # The product is exact, so both forms give the same bits. On a CPU, addcmul is not vectorized for such shapes.
    if rounded.device.type == "cpu":
        restored = rounded.mul_(step).add_(zero)
    else:
        restored = torch.addcmul(zero, rounded, step, out=rounded)
    return restored.sub_(wanted).square_().sum(-1, keepdim=True)


def round_to_bfloat16(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to bfloat16 precision, the precision of stored steps and zero points."""
    return values.bfloat16().float()


def allocate_linear(
    inputs: int, outputs: int, bits: int, bias: nn.Parameter | None, device: torch.device | None = None
) -> QuantizedLinear:
    """Allocate a quantized linear layer whose weights are loaded later.

    Raises:
        SettingError: `bits` is not supported, or not for this number of inputs.
    """
    check_bits(bits, inputs)
    return QuantizedLinear(inputs, outputs, bits, bias, device, groups=group_count(inputs) if bits == 4 else 0)


def bind_quantized(layer: Any) -> Linear:
    """Return a callable for the decoder that computes a quantized layer of either network, or of an older export.

    The 4-bit kernel needs groups: a row without groups gets groups with step 1 and zero point 0.
    """
    if layer.weight.device.type == "cpu":
        return LinearAdapter(layer)
    groups = getattr(layer, "weight_groups", None)
    if groups is None and layer.bits == 4:
        same = torch.tensor((1.0, 0.0), dtype=torch.bfloat16, device=layer.weight.device)  # step and zero point
        groups = same.expand(layer.out_features, group_count(layer.in_features), 2).contiguous()
    return bind_low_bit(layer.weight, layer.weight_scale.float(), groups, layer.bias)


class QuantizedEmbedding(QuantizedLinear):
    """An embedding of token ids [...] as [..., D], from 8-bit rows with one scale each, in the model's dtype."""

    def __init__(
        self, inputs: int, outputs: int, bits: int, bias: nn.Parameter | None, device: torch.device | None = None
    ) -> None:
        super().__init__(inputs, outputs, bits, bias, device)
        self.dtype = torch.get_default_dtype()

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bits: int, bias: nn.Parameter | None = None) -> Self:
        """Return an embedding with a quantized copy of `weight` [V, D], whose dtype its output has."""
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
        """Move the weights as a QuantizedLinear does, and take over the output dtype."""
        self.dtype = function(torch.empty(0, dtype=self.dtype, device=self.weight.device)).dtype
        super()._apply(function, recurse)
        return self


M = TypeVar("M", bound=nn.Module)
# SAT's linear layers. The image encoder's projection, an nn.Linear, is not quantized, as in SAT's `quantize`.
LINEAR_CLASSES = ("ColumnParallelLinear", "RowParallelLinear")
EMBEDDING_CLASS = "VocabParallelEmbedding"
IMAGE_MIXIN = "eva"
EMBEDDING_BITS = 8


def quantize(  # public name
    model: M, weight_bit_width: int, *, quant_vision: bool = False, quant_embeddings: bool = False
) -> M:
    """Quantize the linear layers of a SAT network or module to 8 or 4 bits in place; return it.

    The layers of the language model and its head are replaced one by one, which needs little memory; layers that are
    already quantized stay as they are. SAT's function of this name needs a GPU of 2022 or older and quantizes the
    image encoder as well.

    Args:
        model: on any device, in any dtype.
        weight_bit_width: 8 or 4.
        quant_vision: also quantize the image encoder. It costs more accuracy than all the other layers together.
        quant_embeddings: also quantize the token embeddings, always to 8 bits.

    Raises:
        SettingError: the bit width is not supported, or `model` is sharded over several processes.
    """
    check_bits(weight_bit_width)
    for parent, name, layer in list(find_linear_layers(model, quant_vision)):
        quantized = quantize_weight(layer.weight, weight_bit_width)
        setattr(parent, name, QuantizedLinear.from_quantized(quantized, weight_bit_width, layer.bias))
    for parent, name, layer in list(find_embeddings(model)) if quant_embeddings else ():
        setattr(parent, name, QuantizedEmbedding.from_weight(layer.weight, EMBEDDING_BITS, None))
    return model


def allocate_quantized(
    model: M, bits: int, device: torch.device, *, quant_vision: bool = False, quant_embeddings: bool = False
) -> M:
    """Replace the layers that `quantize` would replace, in a network whose weights are loaded later.

    The quantized weights are zeros on `device`.
    """
    for parent, name, layer in list(find_linear_layers(model, quant_vision)):
        setattr(parent, name, allocate_linear(layer.input_size, layer.output_size, bits, layer.bias, device))
    for parent, name, layer in list(find_embeddings(model)) if quant_embeddings else ():
        sizes = layer.embedding_dim, layer.num_embeddings
        setattr(parent, name, QuantizedEmbedding(*sizes, EMBEDDING_BITS, None, device))
    return model


def allocate_stored(model: M, bits: int, device: torch.device, names: Collection[str]) -> M:
    """Replace the layers whose full names are in `names`, in a network whose quantized weights are loaded later."""
    for path, parent, name, layer in list(iterate_layers(model)):
        if ".".join([*path, name]).lstrip(".") not in names:
            continue
        if type(layer).__name__ in LINEAR_CLASSES:
            setattr(parent, name, allocate_linear(layer.input_size, layer.output_size, bits, layer.bias, device))
        elif type(layer).__name__ == EMBEDDING_CLASS:
            sizes = layer.embedding_dim, layer.num_embeddings
            setattr(parent, name, QuantizedEmbedding(*sizes, EMBEDDING_BITS, None, device))
    return model


def find_linear_layers(model: nn.Module, quant_vision: bool) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, name in it, layer) for each linear layer to quantize.

    Raises:
        SettingError: a layer is sharded over several processes.
    """
    for path, parent, name, layer in iterate_layers(model):
        if type(layer).__name__ in LINEAR_CLASSES and (quant_vision or IMAGE_MIXIN not in path):
            check_unsharded(layer, (layer.output_size, layer.input_size))
            yield parent, name, layer


def find_embeddings(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, name in it, layer) for the token embeddings, without the queries of the image encoder.

    Raises:
        SettingError: the layer is sharded over several processes.
    """
    for path, parent, name, layer in iterate_layers(model):
        if type(layer).__name__ == EMBEDDING_CLASS and IMAGE_MIXIN not in path:
            check_unsharded(layer, (layer.num_embeddings, layer.embedding_dim))
            yield parent, name, layer


def iterate_layers(model: nn.Module) -> Iterator[tuple[list[str], nn.Module, str, Any]]:
    """Yield (components of the parent's full name, parent, name in it, layer) for each module."""
    for path, parent in model.named_modules():
        for name, layer in parent.named_children():
            yield path.split("."), parent, name, layer


def check_unsharded(layer: Any, shape: tuple[int, int]) -> None:
    """Raise SettingError for a layer that is sharded over several processes."""
    if tuple(layer.weight.shape) != shape:
        raise SettingError("A model that is sharded over several processes cannot be quantized. Load it in one.")


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the quantized layers by their full names."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def prepack_all(model: nn.Module) -> None:
    """Prepack the weights of all quantized layers, after they have been loaded."""
    for layer in quantized_layers(model).values():
        layer.prepack()
