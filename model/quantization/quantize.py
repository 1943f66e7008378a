"""Turning the layers of a SAT network into layers of 8 or 4 bits, after it is loaded or while it is."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import SettingError
from ..kernels.torch_ops import QuantizedLinear, check_bits
from .linear import QuantizedEmbedding, empty_linear
from .rounding import round_weight

M = TypeVar("M", bound=nn.Module)
# SAT's own linear layers. The picture's projection, an nn.Linear, keeps its precision, as with SAT's `quantize`.
LINEAR = ("ColumnParallelLinear", "RowParallelLinear")
EMBEDDING = "VocabParallelEmbedding"
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
    for parent, name, layer in list(linear_layers(model, quant_vision)):
        rounded = round_weight(layer.weight, weight_bit_width)
        setattr(parent, name, QuantizedLinear.of(rounded, weight_bit_width, layer.bias))
    for parent, name, layer in list(embeddings(model)) if quant_embeddings else ():
        setattr(parent, name, QuantizedEmbedding.from_weight(layer.weight, EMBEDDING_BITS, None))
    return model


def empty_quantized(
    model: M, bits: int, device: torch.device, *, quant_vision: bool = False, quant_embeddings: bool = False
) -> M:
    """Do the same with a network whose weights are still to be loaded; those of few bits are zeros on `device`."""
    for parent, name, layer in list(linear_layers(model, quant_vision)):
        setattr(parent, name, empty_linear(layer.input_size, layer.output_size, bits, layer.bias, device))
    for parent, name, layer in list(embeddings(model)) if quant_embeddings else ():
        sizes = layer.embedding_dim, layer.num_embeddings
        setattr(parent, name, QuantizedEmbedding(*sizes, EMBEDDING_BITS, None, device))
    return model


def linear_layers(model: nn.Module, quant_vision: bool) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, name in it, layer) of the linear layers to replace.

    Raises:
        SettingError: a layer is one share of several.
    """
    for path, parent, name, layer in named_layers(model):
        if type(layer).__name__ in LINEAR and (quant_vision or IMAGE_MIXIN not in path):
            check_whole(layer, (layer.output_size, layer.input_size))
            yield parent, name, layer


def embeddings(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, name in it, layer) of the tokens' embeddings, not of the image part's queries.

    Raises:
        SettingError: it is one share of several.
    """
    for path, parent, name, layer in named_layers(model):
        if type(layer).__name__ == EMBEDDING and IMAGE_MIXIN not in path:
            check_whole(layer, (layer.num_embeddings, layer.embedding_dim))
            yield parent, name, layer


def named_layers(model: nn.Module) -> Iterator[tuple[list[str], nn.Module, str, Any]]:
    """Yield (parts of the parent's full name, parent, name in it, layer) of all layers."""
    for path, parent in model.named_modules():
        for name, layer in parent.named_children():
            yield path.split("."), parent, name, layer


def check_whole(layer: Any, shape: tuple[int, int]) -> None:
    """Raise SettingError for a layer whose rows or columns lie in other processes, too."""
    if tuple(layer.weight.shape) != shape:
        raise SettingError("A model that is shared out over several processes cannot be quantised. Load it in one.")


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the layers of few bits by their names."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def lay_out_all(model: nn.Module) -> None:
    """Make every layer whose numbers have been loaded ready to use."""
    for layer in quantized_layers(model).values():
        layer.lay_out()
