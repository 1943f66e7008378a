"""Quantize the tensors of a model one at a time, as either network quantizes its layers."""

import functools
from collections.abc import Callable, Mapping
from functools import partial

import torch

from ..kernels.torch_ops import (
    QUANTIZED_LAYERS,
    QuantizedLinear,
    QuantizedWeight,
    quantize_per_channel,
)
from ..quantization.dequantize import EMBEDDINGS, GROUPS_SUFFIX, SCALE_SUFFIX
from ..quantization.quantize import EMBEDDING_BITS, QuantizedEmbedding, allocate_linear, quantize_weight
from ..tensors import LazyTensors, TensorLoader, Tensors, loaders_of
from .layout import SAT_IMAGE_PREFIX

Layers = dict[str, QuantizedLinear]
Readers = dict[str, Callable[[], QuantizedWeight]]
Quantizer = Callable[[torch.Tensor, QuantizedLinear], QuantizedWeight]
META = torch.device("meta")
# Names of SAT's linear layers end so.
LINEAR_LAYERS = (*QUANTIZED_LAYERS, "cross_attention.query", "cross_attention.key_value", "lm_head")


def quantize_for_layer(weight: torch.Tensor, layer: QuantizedLinear) -> QuantizedWeight:
    """Quantize a weight for a layer of a SAT network, on the layer's device."""
    return quantize_weight(weight.to(layer.weight_scale.device), layer.bits)


def quantize_tensors(
    tensors: Tensors, layers: Layers, kept: Readers | None = None, quantizer: Quantizer = quantize_for_layer
) -> Tensors:
    """Return `tensors` with the weight of each of `layers`, if present, replaced by a quantized weight and its scales.

    Args:
        tensors: unquantized tensors by name.
        layers: quantized layers by name.
        kept: by layer name, readers of weights that are quantized already.
        quantizer: quantizes the other weights.
    """

    @functools.lru_cache(maxsize=1)  # weight, scale and groups are accessed one after another
    def quantize_once(name: str) -> QuantizedWeight:
        if kept and name in kept:
            return kept[name]()
        return quantizer(tensors[f"{name}.weight"], layers[name])

    loaders: dict[str, TensorLoader] = {}
    for full_name, loader in loaders_of(tensors).items():
        name = full_name.removesuffix(".weight")
        if name == full_name or name not in layers:
            loaders[full_name] = loader
            continue
        has_groups = layers[name].weight_groups is not None
        for number, ending in enumerate(("", SCALE_SUFFIX, GROUPS_SUFFIX) if has_groups else ("", SCALE_SUFFIX)):
            loaders[f"{full_name}{ending}"] = part_loader(partial(quantize_once, name), number)
    return LazyTensors(loaders)


def part_loader(quantize_once: Callable[[], tuple[torch.Tensor | None, ...]], number: int) -> TensorLoader:
    """Return a loader for one component (weight, scale or groups) of a quantized weight."""
    return lambda: quantize_once()[number]  # type: ignore[return-value]


def allocate_sat_layers(
    shapes: Mapping[str, torch.Size], bits: int, *, quant_vision: bool, quant_embeddings: bool
) -> Layers:
    """Return the layers that `quantize` would quantize in a SAT network, on the meta device, by name.

    Args:
        shapes: shape of each tensor by SAT name.
        bits, quant_vision, quant_embeddings: see `quantize`.

    Raises:
        SettingError: `bits` is not supported, or not for the columns of a weight.
    """
    layers: Layers = {}
    for full_name, shape in shapes.items():
        name, _, kind = full_name.rpartition(".")
        if kind != "weight":
            continue
        if full_name == EMBEDDINGS and quant_embeddings:
            layers[name] = QuantizedEmbedding(shape[1], shape[0], EMBEDDING_BITS, None, META)
        elif name.endswith(LINEAR_LAYERS) and (quant_vision or not name.startswith(SAT_IMAGE_PREFIX)):
            layers[name] = allocate_linear(shape[1], shape[0], bits, None, META)
    return layers


def quantize_sat_tensors(tensors: Tensors, layers: Layers) -> Tensors:
    """Return the tensors of a SAT network with the weights of `layers` quantized, as `load_sat` quantizes them."""
    return quantize_tensors(tensors, layers, quantizer=lambda weight, layer: quantize_weight(weight, layer.bits))


def allocate_hf_layers(shapes: Mapping[str, torch.Size], bits: int) -> Layers:
    """Return the layers that the Hugging Face network quantizes, on the meta device, by name.

    Args:
        shapes: shape of each tensor, by its name in either format, which is the same for these layers.
        bits: 8 or 4.

    Raises:
        SettingError: `bits` is not supported, or not for the columns of a weight.
    """
    return {
        name.removesuffix(".weight"): QuantizedLinear(shape[1], shape[0], bits, None, META, scale_dtype=torch.half)
        for name, shape in shapes.items()
        if name.startswith("transformer.layers.") and name.endswith(tuple(f"{end}.weight" for end in QUANTIZED_LAYERS))
    }


def quantize_hf_tensors(tensors: Tensors, layers: Layers) -> Tensors:
    """Return the tensors of a Hugging Face network with the weights of `layers` quantized, as `load_hf` does."""
    return quantize_tensors(tensors, layers, quantizer=lambda weight, layer: quantize_per_channel(weight, layer.bits))


def component_tensors(layers: Layers) -> Tensors:
    """Return the meta tensors of all components of `layers` by name."""
    return {f"{name}.{key}": tensor for name, layer in layers.items() for key, tensor in layer.state_dict().items()}
