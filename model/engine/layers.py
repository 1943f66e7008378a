"""Run the language model's layers with torch's own operations: attention to a batch's tokens and to the cache.

A function that attends takes (layer, qkv [N, 3, H, head_dim]), which is then its own, and returns the context
[N, H x head_dim]; it stores the keys and values that it is given. On a GPU, prompt_attention.py and token_attention.py
of `kernels.triton` do that.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..kernels.linear import Linear
from ..kernels.norm import layer_norm
from ..kernels.torch_ops import apply_rotary_, rotary_tables
from .kv_cache import KVCache
from .network import Network, have_hooks, language_model_modules, prefix_length, to_device
from .sequence import Request

Attend = Callable[[int, torch.Tensor], torch.Tensor]


def attend_prefill(cache: KVCache, first: int, contexts: list[int]) -> Attend:
    """Read prompts into the rows from `first` on.

    The tokens are the contexts, one after the other, and then the <sop> of each. Context tokens see one another in
    both directions, <sop> sees all of them.

    Args:
        cache: its rows have been begun.
        first: row of the first prompt.
        contexts: length of each context.
    """
    rows = range(first, first + len(contexts))
    angles = [
        torch.cat(
            [table[row, cache.start : cache.start + length] for row, length in zip(rows, contexts, strict=True)]
            + [table[row, cache.start + length, None] for row, length in zip(rows, contexts, strict=True)]
        )[:, None, None]
        for table in (cache.cos, cache.sin)
    ]
    spans = torch.tensor([0, *contexts]).cumsum(0).tolist()

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        qk = apply_rotary_(qkv[:, :2], *angles)
        found = torch.empty_like(qkv[:, 0])
        keys, values = cache.pairs[layer]
        for number, (row, length) in enumerate(zip(rows, contexts, strict=True)):
            for tokens, start, end in (
                (slice(spans[number], spans[number + 1]), cache.start, cache.start + length),
                (slice(spans[-1] + number, spans[-1] + number + 1), cache.start + length, cache.start + length + 1),
            ):
                keys[row, :, start:end] = qk[tokens, 1].transpose(0, 1)
                values[row, :, start:end] = qkv[tokens, 2].transpose(0, 1)
                query = qk[tokens, 0].transpose(0, 1)[None]
                past = keys[row : row + 1, :, :end], values[row : row + 1, :, :end]
                found[tokens] = F.scaled_dot_product_attention(query, *past)[0].transpose(0, 1)
        return found.flatten(1)

    return attend


def attend_decode(cache: KVCache, count: int, longest: int) -> Attend:
    """Add a token to each of the first `count` rows, of which the longest fills `longest` places then."""
    return _attend_alone(cache, longest - 1) if count == 1 else _attend_side_by_side(cache, count, longest)


def _attend_alone(cache: KVCache, place: int) -> Attend:
    """Let a single row attend, without a mask: in few operations, of which each costs more than its arithmetic."""
    cos, sin = cache.cos[0, place], cache.sin[0, place]
    new = cache.layers[:, :, 0, :, place].unbind()  # of each layer, [2, H, head_dim]
    past = cache.layers[:, :, :1, :, : place + 1].flatten(0, 1).unbind()  # keys and values in turn

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        apply_rotary_(qkv[0, :2], cos, sin)
        new[layer].copy_(qkv[0, 1:])
        query, keys, values = qkv[:, 0, :, None], past[2 * layer], past[2 * layer + 1]
        return F.scaled_dot_product_attention(query, keys, values).view(1, -1)

    return attend


def _attend_side_by_side(cache: KVCache, count: int, longest: int) -> Attend:
    """Let each row attend to its own past."""
    rows = torch.arange(count, device=cache.lengths.device)
    places = cache.lengths[:count].clone()
    cos, sin = (table[rows, places][:, None, None] for table in (cache.cos, cache.sin))
    visible = torch.arange(longest, device=rows.device) <= places[:, None, None, None]

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        query, key = apply_rotary_(qkv[:, :2], cos, sin).unbind(1)
        keys, values = cache.pairs[layer]
        keys[rows, :, places] = key
        values[rows, :, places] = qkv[:, 2]
        past = keys[:count, :, :longest], values[:count, :, :longest]
        return F.scaled_dot_product_attention(query[:, :, None], *past, attn_mask=visible).flatten(1)

    return attend


@dataclass(frozen=True)
class LayerNorm:
    """A layer normalisation."""

    weight: torch.Tensor
    bias: torch.Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> "LayerNorm":
        """Return that of a torch module."""
        return cls(module.weight, module.bias, module.eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cpu:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        return layer_norm(x, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class LayerWeights:
    """One layer, in the order of its computation."""

    input_norm: LayerNorm
    query_key_value: Linear
    dense: Linear
    post_norm: LayerNorm
    to_4h: Linear
    to_h: Linear


@dataclass(frozen=True)
class Weights:
    """All layers, and what follows them."""

    layers: list[LayerWeights]
    final_norm: LayerNorm
    lm_head: Linear

    @property
    def width(self) -> int:
        """D, of a token between the layers."""
        return len(self.final_norm.weight)


def collect_weights(network: Network) -> Weights:
    """Walk the layers of a network by the names that every ChatGLM has."""
    layers = [
        LayerWeights(
            LayerNorm.of(layer.input_layernorm),
            network.bind_linear(layer.attention.query_key_value),
            network.bind_linear(layer.attention.dense),
            LayerNorm.of(layer.post_attention_layernorm),
            network.bind_linear(layer.mlp.dense_h_to_4h),
            network.bind_linear(layer.mlp.dense_4h_to_h),
        )
        for layer in network.transformer.layers
    ]
    return Weights(layers, LayerNorm.of(network.transformer.final_layernorm), network.bind_linear(network.lm_head))


def weights_fingerprint(network: Network) -> tuple[object, ...]:
    """Return what changes when weights move or are exchanged, or a hook or prefix comes; not when values change."""
    modules = language_model_modules(network)
    weights = [module._parameters.get("weight") for module in modules if module._parameters]
    pointers = [weight.data_ptr() for weight in weights if weight is not None]
    is_hooked = network.has_foreign_mixins or have_hooks(modules)
    return (is_hooked, prefix_length(network), *map(id, modules), *pointers)


class Layers:
    """Walks the layers of a network by the names that every ChatGLM uses."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.weights = collect_weights(network)
        self.num_heads = network.num_heads
        self.head_dim = self.weights.width // self.num_heads
        self.alpha = network.residual_scale
        positions = torch.arange(network.max_sequence_length + 2, device=network.device)
        self.angles = torch.stack(rotary_tables(positions, self.head_dim // 2, network.dtype))

    def __len__(self) -> int:
        return len(self.weights.layers)

    def walk(self, x: torch.Tensor, attend: Attend) -> Iterator[torch.Tensor]:
        """Yield x [N, D] after each layer."""
        for number, layer in enumerate(self.weights.layers):
            m = self._attend(layer, x, partial(attend, number))
            x = layer.to_h(layer.to_4h(m, gelu=True), residual=m, alpha=self.alpha)
            yield x

    def _attend(self, layer: LayerWeights, x: torch.Tensor, attend: "partial[torch.Tensor]") -> torch.Tensor:
        """Return m [N, D]. What leads to it is let go before the MLP, which takes the most memory."""
        h = layer.input_norm(x)
        context = attend(self._split(layer.query_key_value(h)))
        return layer.post_norm(layer.dense(context, residual=h, alpha=self.alpha))

    def run(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return x [N, D] after the last layer."""
        return deque(self.walk(x, attend), maxlen=1)[0]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] after the last layer's x [N, D]."""
        return self.weights.lm_head(self.weights.final_norm(x)).float()

    def decode(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return the logits [B, V] after one token [B] of each row."""
        return self.logits(self.run(self.network.embed_tokens(tokens), attend))

    def embed(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """Return the embedded prompt [T, D] of each request."""
        device = self.network.device
        return [
            self.network.embed(to_device(one.token_ids, device)[None], one.images, one.image_start)[0]
            for one in requests
        ]

    def _split(self, qkv: torch.Tensor) -> torch.Tensor:
        """View the outputs of query_key_value as [N, 3, H, head_dim]."""
        if self.network.qkv_interleaved:
            return qkv.view(-1, self.num_heads, 3, self.head_dim).transpose(1, 2)
        return qkv.view(-1, 3, self.num_heads, self.head_dim)
