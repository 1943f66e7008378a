"""Turning the linear layers of a SAT network into layers of 8 or 4 bits, after it is loaded or while it is."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import SettingError
from .linear import QuantizedLinear
from .rounding import check_bits

M = TypeVar("M", bound=nn.Module)
# SAT's own linear layers. The picture's projection, an nn.Linear, keeps its precision, as with SAT's `quantize`.
REPLACED = ("ColumnParallelLinear", "RowParallelLinear")
IMAGE_MIXIN = "eva"


def quantize(model: M, weight_bit_width: int, *, quant_vision: bool = False) -> M:  # public name
    """Replace the linear layers in a SAT network, or in a part of one, by layers of 8 or 4 bits; return it.

    The layers of the language model and its head are replaced one by one, so that little memory is needed; layers
    that are quantised already stay. SAT's function of this name needs a GPU of 2022 or older and quantises the
    image part as well.

    Args:
        model: on any device, in any dtype.
        weight_bit_width: 8 or 4.
        quant_vision: quantise the layers of the image part, too. Answers suffer more than from all the others.

    Raises:
        SettingError: weights cannot have so many bits, or `model` is one share of several.
    """
    check_bits(weight_bit_width)
    for _, parent, name, linear in list(replaced_layers(model, quant_vision)):
        setattr(parent, name, QuantizedLinear.from_weight(linear.weight, weight_bit_width, linear.bias))
    return model


def empty_quantized(model: M, bits: int, device: torch.device, *, quant_vision: bool = False) -> M:
    """Do the same with a network whose weights are still to be loaded; those of few bits are zeros on `device`."""
    for _, parent, name, linear in list(replaced_layers(model, quant_vision)):
        setattr(parent, name, QuantizedLinear(linear.input_size, linear.output_size, bits, linear.bias, device))
    return model


def replaced_layers(model: nn.Module, quant_vision: bool) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Yield (full name, parent, name in it, layer) of the linear layers to replace.

    Raises:
        SettingError: a layer is one share of several.
    """
    for path, parent in model.named_modules():
        if IMAGE_MIXIN in path.split(".") and not quant_vision:
            continue
        for name, layer in parent.named_children():
            if type(layer).__name__ in REPLACED:
                check_whole(layer)
                yield f"{path}.{name}".lstrip("."), parent, name, layer


def check_whole(layer: Any) -> None:
    """Raise SettingError for a layer whose rows or columns lie in other processes, too."""
    if tuple(layer.weight.shape) != (layer.output_size, layer.input_size):
        raise SettingError("A model that is shared out over several processes cannot be quantised. Load it in one.")


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the layers of few bits by their names."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def lay_out_all(model: nn.Module) -> None:
    """Make every layer whose numbers have been loaded ready to use."""
    for layer in quantized_layers(model).values():
        layer.lay_out()
