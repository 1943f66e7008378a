"""Writing a quantised network as a checkpoint of the SAT format, from which `load_sat` takes the same numbers."""

import os
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..checkpoint import open_checkpoint
from ..checkpoint.convert import copy_tokenizer, write_sat
from ..checkpoint.directory import new_directory
from ..errors import SettingError
from .embedding import QuantizedEmbedding
from .quantize import quantized_layers


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
