"""Run the layers of the image encoder with fewer operations than its modules: about half as many GPU kernels.

Each residual is added in the kernel of the next layer norm, and each bias in its matrix product. The weights are those
of `vision_encoder`, whose names both networks share; `model.blip2` describes the architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..attribution import CrossAttentionRecord, Records, count_heads
from ..engine.layers import LayerNorm
from ..engine.network import Network, have_hooks, list_modules
from ..kernels.linear import Linear

# Classes and mixins whose computation this module repeats; any others may compute something else.
KNOWN_CLASSES = {"BLIP2", "EVAViT", "QFormer", "ImageEncoder", "ViT"}
KNOWN_MIXINS = {"patch_embedding", "pos_embedding", "cls", "full-attention"}


@dataclass(frozen=True)
class Attention:
    """Attention without a mask.

    Attributes:
        query: the projection to queries, or for self-attention to queries, keys and values.
        key_value: the projection of the features to keys and values; None for self-attention.
        dense: the output projection.
        num_heads: H.
    """

    query: Linear
    key_value: Linear | None
    dense: Linear
    num_heads: int

    def __call__(
        self, h: torch.Tensor, features: torch.Tensor | None, batch: int, records: Records | None = None
    ) -> torch.Tensor:
        """Return the attention's output [B x T, D] for h [B x T, D], over h or over features [B x N, Dv].

        Args:
            records: a list to which cross-attention appends a record of its tensors.
        """
        queries, keys_values = self.query(h), None
        projected = self._split(queries, batch)
        if self.key_value is not None:
            assert features is not None, "cross-attention needs features"
            keys_values = self.key_value(features)
            projected = [*projected, *self._split(keys_values, batch, parts=2)]
        query, key, value = projected
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(len(h), -1)
        if records is not None and keys_values is not None:
            records.append(CrossAttentionRecord(self.num_heads, queries, keys_values, context))
        return self.dense(context)

    def _split(self, x: torch.Tensor, batch: int, parts: int | None = None) -> list[torch.Tensor]:
        """Split x [B x T, parts * D] into parts and heads: for each part [B, H, T, D / H]."""
        parts = parts or (3 if self.key_value is None else 1)
        return list(x.view(batch, len(x) // batch, parts, self.num_heads, -1).permute(2, 0, 3, 1, 4))


@dataclass(frozen=True)
class EncoderLayer:
    """The weights of a layer, in the order of computation; `cross` is None without cross-attention."""

    input_norm: LayerNorm
    attention: Attention
    post_norm: LayerNorm
    cross: tuple[Attention, LayerNorm] | None
    to_4h: Linear
    to_h: Linear

    def mlp(self, h: torch.Tensor) -> torch.Tensor:
        """Return the output of the MLP, with its exact GELU."""
        return self.to_h(self.to_4h(h, gelu="exact"))


def self_attention(module: Any, bind: Callable[[Any], Linear]) -> Attention:
    """Return the self-attention of a module."""
    return Attention(bind(module.query_key_value), None, bind(module.dense), count_heads(module))


def cross_attention(module: Any, bind: Callable[[Any], Linear]) -> Attention:
    """Return the cross-attention of a module."""
    return Attention(bind(module.query), bind(module.key_value), bind(module.dense), count_heads(module))


def collect_layers(transformer: Any, bind: Callable[[Any], Linear]) -> list[EncoderLayer]:
    """Return the layers of the ViT or of the Q-Former."""
    return [
        EncoderLayer(
            LayerNorm.from_module(layer.input_layernorm),
            self_attention(layer.attention, bind),
            LayerNorm.from_module(layer.post_attention_layernorm),
            (
                cross_attention(layer.cross_attention, bind),
                LayerNorm.from_module(layer.post_cross_attention_layernorm),
            )
            if hasattr(layer, "cross_attention")
            else None,
            bind(layer.mlp.dense_h_to_4h),
            bind(layer.mlp.dense_4h_to_h),
        )
        for layer in transformer.layers
    ]


def can_run(network: Network) -> bool:
    """Return whether `EncoderLayers` may replace the network's image encoder.

    It may not in training, with a hook of torch, with a mixin of the user, or with another encoder.
    """
    encoder: Any = network.vision_encoder
    parts = [encoder, *(getattr(encoder, name, None) for name in ("vit", "qformer"))]
    if not KNOWN_CLASSES.issuperset(type(part).__name__ for part in parts):
        return False
    if encoder.training or have_hooks(list_modules(encoder)):
        return False
    return all(KNOWN_MIXINS.issuperset(getattr(part, "mixins", {})) for part in parts)


class EncoderLayers:
    """The image encoder as a function of pixels, with gradients if torch records them.

    Args:
        network: its weights are used in place; see `can_run`.
    """

    def __init__(self, network: Network) -> None:
        encoder: Any = network.vision_encoder
        self.vit, self.qformer = encoder.vit, encoder.qformer.transformer
        self.vit_layers = collect_layers(self.vit.transformer, network.bind_linear)
        self.qformer_layers = collect_layers(self.qformer, network.bind_linear)
        self.feature_norm = LayerNorm.from_module(self.vit.mixins["cls"].ln_vision)
        self.query_norm = LayerNorm.from_module(self.qformer.final_layernorm)
        self.projection = network.bind_linear(encoder.glm_proj)

    def __call__(self, pixels: torch.Tensor, records: Records | None = None) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S] in the network's dtype.

        Args:
            pixels: preprocessed images.
            records: a list to which each cross-attention layer appends a record of its tensors.
        """
        features = self._features(self._patches(pixels), len(pixels))
        queries = self._queries(features, len(pixels), records)
        return self.projection(queries).view(len(pixels), len(queries) // len(pixels), -1)

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embedded class token and patches with their positions [B x (1 + N), Dv]."""
        transformer, convolution = self.vit.transformer, self.vit.mixins["patch_embedding"].proj
        # A convolution whose stride is its size is a linear layer. cuDNN's backward pass takes a hundred times as long.
        side = convolution.stride[0]
        by_patch = pixels.unflatten(2, (-1, side)).unflatten(4, (-1, side)).permute(0, 2, 4, 1, 3, 5)
        rows = by_patch.flatten(3).flatten(1, 2)  # [B, N, 3 * side * side]
        patches = F.linear(rows, convolution.weight.flatten(1), convolution.bias)
        first = transformer.word_embeddings.weight[:1].expand(len(pixels), 1, -1)
        x: torch.Tensor = torch.cat((first, patches), dim=1) + transformer.position_embeddings.weight
        return x.flatten(0, 1)

    def _features(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        """Run the ViT, whose norms come before attention and MLP; return the normalized features [B x (1 + N), Dv]."""
        norms = [*(layer.input_norm for layer in self.vit_layers[1:]), self.feature_norm]
        h = self.vit_layers[0].input_norm(x)
        for layer, next_norm in zip(self.vit_layers, norms, strict=True):
            x, h = layer.post_norm.add(x, layer.attention(h, None, batch))
            x, h = next_norm.add(x, layer.mlp(h))
        return h

    def _queries(self, features: torch.Tensor, batch: int, records: Records | None) -> torch.Tensor:
        """Run the Q-Former, whose norms come after attention and MLP; return the normalized queries [B x L, Dq]."""
        norms = [*(layer.input_norm for layer in self.qformer_layers[1:]), self.query_norm]
        h = self.qformer_layers[0].input_norm(self.qformer.word_embeddings.weight.repeat(batch, 1))
        for layer, next_norm in zip(self.qformer_layers, norms, strict=True):
            _, h = layer.post_norm.add(h, layer.attention(h, None, batch))
            if layer.cross is not None:
                attention, norm = layer.cross
                _, h = norm.add(h, attention(h, features, batch, records))
            _, h = next_norm.add(h, layer.mlp(h))
        return h
