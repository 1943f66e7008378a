"""Quantize the tensors of a checkpoint while they are loaded, and save a quantized network."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..errors import SettingError
from ..kernels.torch_ops import QuantizedLinear, QuantizedWeight
from ..quantization.dequantize import BITS_KEY, GROUPS_SUFFIX, SCALE_SUFFIX
from ..quantization.quantize import QuantizedEmbedding, quantized_layers
from ..tensors import Tensors
from . import Checkpoint, open_checkpoint
from .convert import copy_tokenizer, write_sat
from .layout import INTERLEAVED, SPLIT, is_language_qkv, split_qkv
from .quantize_tensors import (  # re-exported for a former name
    Layers,
    Readers,
    part_loader as part_loader,
    quantize_tensors,
)
from .save import new_directory


def quantized_checkpoint(checkpoint: Checkpoint, layers: Layers) -> Checkpoint:
    """Return `checkpoint` with the weights of `layers`, given by name, quantized to the bits of each layer.

    One unquantized weight at a time is in memory, on the device of its layer. Weights that are stored with the same
    number of bits are kept as they are, unless LoRA is merged into them.

    Raises:
        CheckpointError: as `Checkpoint.split_qkv` and `Checkpoint.merge_lora` do.
    """
    kept = {} if checkpoint.has_lora else find_stored_weights(checkpoint, layers)
    if checkpoint.has_lora:
        checkpoint = checkpoint.merge_lora()
    tensors = quantize_tensors(checkpoint.split_qkv(), layers, kept)
    return replace(checkpoint, stored_tensors=tensors, qkv_layout=SPLIT, layout_is_explicit=True)


def find_stored_weights(checkpoint: Checkpoint, layers: Layers) -> Readers:
    """Return a reader for each layer's weight that is stored with the layer's bits; it gives rows in split order."""
    stored = checkpoint.quantized
    fitting = (name for name, layer in layers.items() if matches_layer(stored, f"{name}.weight", layer))
    return {name: partial(read_low_bit_weight, checkpoint, f"{name}.weight", layers[name]) for name in fitting}


def matches_layer(stored: Tensors, weight: str, layer: QuantizedLinear) -> bool:
    """Return whether a stored weight has the format of `layer`, or the same bits and one scale per row."""
    if weight not in stored or stored[weight].shape != layer.weight.shape:
        return False
    wanted, groups = layer.weight_groups, weight + GROUPS_SUFFIX
    return groups not in stored or (wanted is not None and stored[groups].shape == wanted.shape)


def read_low_bit_weight(checkpoint: Checkpoint, weight: str, layer: QuantizedLinear) -> QuantizedWeight:
    """Read a stored quantized weight; return its rows in the split order."""
    components = [checkpoint.quantized.get(weight + ending) for ending in ("", SCALE_SUFFIX, GROUPS_SUFFIX)]
    if is_language_qkv(weight) and checkpoint.qkv_layout == INTERLEAVED:
        heads = checkpoint.config["num_attention_heads"]
        components = [None if component is None else split_qkv(component, heads) for component in components]
    if components[2] is None and layer.weight_groups is not None:
        components[2] = torch.tensor((1.0, 0.0)).expand_as(layer.weight_groups)
    return QuantizedWeight(*components)  # type: ignore[arg-type]  # `matches_layer` ensures that the first two exist


def save_quantized(network: nn.Module, source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> None:
    """Save a quantized SAT network to the new directory `destination`, with its tokenizer.

    Args:
        network: a network that `load_sat` or `quantize` quantized.
        source: the model it was loaded from, whose configuration and tokenizer are copied.
        destination: a directory that does not exist yet, or is empty.

    Raises:
        SettingError: no layer of the network is quantized, or layers have different bits.
        VisualGLMError: the source cannot be read, or the destination cannot be written.
    """
    layers = quantized_layers(network).values()
    bits = {layer.bits for layer in layers if not isinstance(layer, QuantizedEmbedding)}
    if len(bits) != 1:
        raise SettingError("Only a network whose quantized layers all have 8 bits, or all 4 bits, can be saved.")
    checkpoint = open_checkpoint(source)
    if checkpoint.has_lora:
        checkpoint = checkpoint.merge_lora()
    tensors = network.state_dict()
    with new_directory(Path(destination), sum(tensor.nbytes for tensor in tensors.values())) as part:
        copy_tokenizer(checkpoint, part)
        described = replace(checkpoint, config={**checkpoint.config, BITS_KEY: bits.pop()})
        write_sat(described, tensors, part, None, 1, None)
