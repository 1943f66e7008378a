"""Quantize the tensors of a checkpoint while they are read, and save a quantized network."""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..errors import SettingError
from ..kernels.torch_ops import QuantizedLinear, QuantizedWeight
from ..quantization.dequantize import GROUPS_SUFFIX, SCALE_SUFFIX
from ..quantization.quantize import QuantizedEmbedding, quantize_weight, quantized_layers
from ..tensors import LazyTensors, TensorLoader, Tensors, loaders_of
from . import Checkpoint, open_checkpoint
from .convert import copy_tokenizer, write_sat
from .layout import INTERLEAVED, SPLIT, is_language_qkv, split_qkv
from .save import new_directory

Layers = dict[str, QuantizedLinear]
Readers = dict[str, Callable[[], QuantizedWeight]]
Quantizer = Callable[[torch.Tensor, QuantizedLinear], QuantizedWeight]


def quantized_checkpoint(checkpoint: Checkpoint, layers: Layers) -> Checkpoint:
    """Return `checkpoint` with the weights of `layers`, by name, in as many bits as these have.

    One whole weight at a time lies in memory, on the device of its layer. Weights that are stored in as many bits
    keep their numbers, unless LoRA is merged into them.

    Raises:
        CheckpointError: as `Checkpoint.split_qkv` and `merge_lora` do.
    """
    kept = {} if checkpoint.has_lora else find_stored_weights(checkpoint, layers)
    if checkpoint.has_lora:
        checkpoint = checkpoint.merge_lora()
    tensors = quantize_tensors(checkpoint.split_qkv(), layers, kept)
    return replace(checkpoint, stored_tensors=tensors, qkv_layout=SPLIT, layout_is_explicit=True)


def find_stored_weights(checkpoint: Checkpoint, layers: Layers) -> Readers:
    """Return what reads the weight of each of `layers` that is stored in as many bits, rows in the split order."""
    stored = checkpoint.quantized
    fitting = (name for name, layer in layers.items() if matches_layer(stored, f"{name}.weight", layer))
    return {name: partial(read_low_bit_weight, checkpoint, f"{name}.weight", layers[name]) for name in fitting}


def matches_layer(stored: Tensors, weight: str, layer: QuantizedLinear) -> bool:
    """Whether the weight of that name is stored as `layer` would have it, or with one scale a row."""
    if weight not in stored or stored[weight].shape != layer.weight.shape:
        return False
    wanted, groups = layer.weight_groups, weight + GROUPS_SUFFIX
    return groups not in stored or (wanted is not None and stored[groups].shape == wanted.shape)


def read_low_bit_weight(checkpoint: Checkpoint, weight: str, layer: QuantizedLinear) -> QuantizedWeight:
    """Read a weight of few bits as it is stored."""
    parts = [checkpoint.quantized.get(weight + ending) for ending in ("", SCALE_SUFFIX, GROUPS_SUFFIX)]
    if is_language_qkv(weight) and checkpoint.qkv_layout == INTERLEAVED:
        heads = checkpoint.config["num_attention_heads"]
        parts = [None if part is None else split_qkv(part, heads) for part in parts]
    if parts[2] is None and layer.weight_groups is not None:
        parts[2] = torch.tensor((1.0, 0.0)).expand_as(layer.weight_groups)
    return QuantizedWeight(*parts)  # type: ignore[arg-type]  # `matches_layer` says that the first two are there


def quantize_for_layer(weight: torch.Tensor, layer: QuantizedLinear) -> QuantizedWeight:
    """Return a whole weight as a layer of a SAT network has it, rounded on its device."""
    return quantize_weight(weight.to(layer.weight_scale.device), layer.bits)


def quantize_tensors(
    tensors: Tensors, layers: Layers, kept: Readers | None = None, quantizer: Quantizer = quantize_for_layer
) -> Tensors:
    """Return `tensors` with a rounded weight and its scales for each of `layers` that they have a weight for.

    Args:
        kept: what reads those that are not rounded anew, by the layer's name.
        rounder: rounds the others.
    """

    @functools.lru_cache(maxsize=1)  # its parts are asked for one after another
    def quantize_once(name: str) -> QuantizedWeight:
        if kept and name in kept:
            return kept[name]()
        return quantizer(tensors[f"{name}.weight"], layers[name])

    loaders = loaders_of(tensors)
    for name, layer in layers.items():
        if loaders.pop(f"{name}.weight", None) is not None:
            for number, ending in enumerate(
                ("", SCALE_SUFFIX) if layer.weight_groups is None else ("", SCALE_SUFFIX, GROUPS_SUFFIX)
            ):
                loaders[f"{name}.weight{ending}"] = part_loader(partial(quantize_once, name), number)
    return LazyTensors(loaders)


def part_loader(quantize_once: Callable[[], tuple[torch.Tensor | None, ...]], number: int) -> TensorLoader:
    """Return what makes one part of a rounded weight."""
    return lambda: quantize_once()[number]  # type: ignore[return-value]


def save_quantized(network: nn.Module, source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> None:
    """Write a quantised SAT network into the new directory `destination`, with its tokenizer.

    Args:
        network: what `load_sat` or `quantize` quantised.
        source: the model that it was loaded from, whose configuration and tokenizer are written beside it.

    Raises:
        SettingError: nothing in the network is quantised, or layers have different bits.
        VisualGLMError: the source cannot be read, or the destination cannot be written.
    """
    layers = quantized_layers(network).values()
    bits = {layer.bits for layer in layers if not isinstance(layer, QuantizedEmbedding)}
    if len(bits) != 1:
        raise SettingError("Only a network whose quantised layers have all 8 bits, or all 4, can be written so.")
    checkpoint = open_checkpoint(source)
    if checkpoint.has_lora:
        checkpoint = checkpoint.merge_lora()
    tensors = network.state_dict()
    with new_directory(Path(destination), sum(tensor.nbytes for tensor in tensors.values())) as part:
        copy_tokenizer(checkpoint, part)
        described = replace(checkpoint, config={**checkpoint.config, "quantization_bit": bits.pop()})
        write_sat(described, tensors, part, None, 1, None)
