"""The language model's weights as the decoder calls them, found once instead of at every token."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..kernels.linear import Linear
from ..kernels.norm import layer_norm
from .modules import have_hooks
from .network import decoded_modules, prefix_length


@dataclass(frozen=True)
class Norm:
    """A layer normalisation."""

    weight: torch.Tensor
    bias: torch.Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> "Norm":
        """Return that of a torch module."""
        return cls(module.weight, module.bias, module.eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cpu:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        return layer_norm(x, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class LayerWeights:
    """One layer, in the order of its computation."""

    input_norm: Norm
    query_key_value: Linear
    dense: Linear
    post_norm: Norm
    to_4h: Linear
    to_h: Linear


@dataclass(frozen=True)
class Weights:
    """All layers, and what follows them."""

    layers: list[LayerWeights]
    final_norm: Norm
    lm_head: Linear

    @property
    def width(self) -> int:
        """D, of a token between the layers."""
        return len(self.final_norm.weight)


def find_weights(network: Any) -> Weights:
    """Walk the layers of a network by the names that every ChatGLM has."""
    layers = [
        LayerWeights(
            Norm.of(layer.input_layernorm),
            network.bind_linear(layer.attention.query_key_value),
            network.bind_linear(layer.attention.dense),
            Norm.of(layer.post_attention_layernorm),
            network.bind_linear(layer.mlp.dense_h_to_4h),
            network.bind_linear(layer.mlp.dense_4h_to_h),
        )
        for layer in network.transformer.layers
    ]
    return Weights(layers, Norm.of(network.transformer.final_layernorm), network.bind_linear(network.lm_head))


def weights_mark(network: Any) -> tuple[object, ...]:
    """Return what changes when weights move or are exchanged, or a hook or prefix comes; not when values change."""
    modules = decoded_modules(network)
    weights = [module._parameters.get("weight") for module in modules if module._parameters]
    pointers = [weight.data_ptr() for weight in weights if weight is not None]
    is_hooked = network.has_foreign_mixins or have_hooks(modules)
    return (is_hooked, prefix_length(network), *map(id, modules), *pointers)
