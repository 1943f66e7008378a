"""Run the language model's layers with torch operations: attention, layer norms, linear layers, logits.

An attention function takes (layer, qkv [N, 3, H, head_dim]), which it may overwrite, and returns the context
[N, H x head_dim]; it also writes the keys and values to the KV cache. On a GPU, prefill_attention.py and
decode_attention.py of `kernels.triton` provide the attention.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..kernels.linear import Linear
from ..kernels.norm import add_layer_norm, layer_norm
from ..kernels.torch_ops import rotary_tables
from .kv_cache import KVCache
from .network import Network, have_hooks, language_model_modules, prefix_length, to_device
from .sequence import Request

Attend = Callable[[int, torch.Tensor], torch.Tensor]


def apply_rotary_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions in place, without gradients.

    This takes fewer operations than `torch_ops.apply_rotary`, and therefore less time on a CPU.
    """
    partners = x.index_select(-1, rotate_half_indices(x.shape[-1], x.device))
    return x.mul_(cos).addcmul_(partners, sin)


@functools.cache
def rotate_half_indices(head_dim: int, device: torch.device) -> torch.Tensor:
    """Return, for each number of a head, the index [head_dim] of the number that it is rotated with."""
    return torch.arange(head_dim, device=device).view(2, 2, -1).flip(-2).flatten()


def make_prefill_attention(cache: KVCache, first: int, contexts: list[int]) -> Attend:
    """Return the attention function of a prefill into the slots from `first` on.

    Its tokens are all contexts, one after another, and then the <sop> of each. Context tokens attend to the complete
    context of their prompt in both directions, and so does <sop>.

    Args:
        cache: its slots have their positions set.
        first: slot of the first prompt.
        contexts: length of each context.
    """
    slots = range(first, first + len(contexts))
    start = cache.prefix_length
    cos_sin = [
        torch.cat(
            [table[slot, start : start + length] for slot, length in zip(slots, contexts, strict=True)]
            + [table[slot, start + length, None] for slot, length in zip(slots, contexts, strict=True)]
        )[:, None, None]
        for table in (cache.cos, cache.sin)
    ]
    offsets = torch.tensor([0, *contexts]).cumsum(0).tolist()

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        qk = apply_rotary_(qkv[:, :2], *cos_sin)
        context = torch.empty_like(qkv[:, 0])
        keys, values = cache.layers[layer]
        for index, (slot, length) in enumerate(zip(slots, contexts, strict=True)):
            for tokens, begin, end in (
                (slice(offsets[index], offsets[index + 1]), start, start + length),
                (slice(offsets[-1] + index, offsets[-1] + index + 1), start + length, start + length + 1),
            ):
                keys[slot, :, begin:end] = qk[tokens, 1].transpose(0, 1)
                values[slot, :, begin:end] = qkv[tokens, 2].transpose(0, 1)
                query = qk[tokens, 0].transpose(0, 1)[None]
                past = keys[slot : slot + 1, :, :end], values[slot : slot + 1, :, :end]
                context[tokens] = F.scaled_dot_product_attention(query, *past)[0].transpose(0, 1)
        return context.flatten(1)

    return attend


def make_decode_attention(cache: KVCache, count: int, longest: int) -> Attend:
    """Return the attention function of a decode step, which appends a token to each of the first `count` slots.

    Args:
        cache: the KV cache.
        count: number of sequences.
        longest: filled positions of the longest slot after the step, prefix included.
    """
    return _make_single_attention(cache, longest - 1) if count == 1 else _make_batched_attention(cache, count, longest)


def _make_single_attention(cache: KVCache, position: int) -> Attend:
    """Return the attention of a single sequence: no mask and few operations, whose overhead exceeds their compute."""
    cos, sin = cache.cos[0, position], cache.sin[0, position]
    new = cache.key_values[:, :, 0, :, position].unbind()  # for each layer, [2, H, head_dim]
    past = cache.key_values[:, :, :1, :, : position + 1].flatten(0, 1).unbind()  # keys and values alternate

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        apply_rotary_(qkv[0, :2], cos, sin)
        new[layer].copy_(qkv[0, 1:])
        query, keys, values = qkv[:, 0, :, None], past[2 * layer], past[2 * layer + 1]
        return F.scaled_dot_product_attention(query, keys, values).view(1, -1)

    return attend


def _make_batched_attention(cache: KVCache, count: int, longest: int) -> Attend:
    """Return the attention of several sequences, each masked to its own length."""
    slots = torch.arange(count, device=cache.lengths.device)
    positions = cache.lengths[:count].clone()
    cos, sin = (table[slots, positions][:, None, None] for table in (cache.cos, cache.sin))
    visible = torch.arange(longest, device=slots.device) <= positions[:, None, None, None]

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        query, key = apply_rotary_(qkv[:, :2], cos, sin).unbind(1)
        keys, values = cache.layers[layer]
        keys[slots, :, positions] = key
        values[slots, :, positions] = qkv[:, 2]
        past = keys[:count, :, :longest], values[:count, :, :longest]
        return F.scaled_dot_product_attention(query[:, :, None], *past, attn_mask=visible).flatten(1)

    return attend


@dataclass(frozen=True)
class LayerNorm:
    """A layer normalization."""

    weight: torch.Tensor
    bias: torch.Tensor
    epsilon: float

    @classmethod
    def from_module(cls, module: Any) -> "LayerNorm":
        """Return the layer norm of a torch module."""
        return cls(module.weight, module.bias, module.eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cpu:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        return layer_norm(x, self.weight, self.bias, self.epsilon)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x + y, both [N, D], and its normalization."""
        return add_layer_norm(x, y, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer, in the order of computation."""

    input_norm: LayerNorm
    query_key_value: Linear
    dense: Linear
    post_norm: LayerNorm
    to_4h: Linear
    to_h: Linear


@dataclass(frozen=True)
class Weights:
    """The weights of all layers, the final norm and the language model head."""

    layers: list[LayerWeights]
    final_norm: LayerNorm
    lm_head: Linear

    @property
    def hidden_size(self) -> int:
        """D, width of the hidden states."""
        return len(self.final_norm.weight)


def collect_weights(network: Network) -> Weights:
    """Collect the weights of a network by the names that every ChatGLM uses."""
    layers = [
        LayerWeights(
            LayerNorm.from_module(layer.input_layernorm),
            network.bind_linear(layer.attention.query_key_value),
            network.bind_linear(layer.attention.dense),
            LayerNorm.from_module(layer.post_attention_layernorm),
            network.bind_linear(layer.mlp.dense_h_to_4h),
            network.bind_linear(layer.mlp.dense_4h_to_h),
        )
        for layer in network.transformer.layers
    ]
    final_norm = LayerNorm.from_module(network.transformer.final_layernorm)
    return Weights(layers, final_norm, network.bind_linear(network.lm_head))


def weights_fingerprint(network: Network) -> tuple[object, ...]:
    """Return a value that changes when weights are moved or replaced, or when hooks or the prefix length change.

    It does not change when weights are updated in place.
    """
    modules = language_model_modules(network)
    weights = [module._parameters.get("weight") for module in modules if module._parameters]
    pointers = [weight.data_ptr() for weight in weights if weight is not None]
    is_hooked = network.has_foreign_mixins or have_hooks(modules)
    return (is_hooked, prefix_length(network), *map(id, modules), *pointers)


class Layers:
    """The language model's layers, as functions of hidden states and an attention function.

    Attributes:
        weights: the weights of all layers.
        num_heads: H, attention heads.
        head_dim: width of a head.
        residual_scale: factor of the skip connections: a sublayer f returns f(m) + residual_scale * m.
        cos_sin_table: cosines and sines of all positions [2, positions, head_dim / 2]; each half of a head uses one
            position id.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.weights = collect_weights(network)
        self.num_heads = network.num_heads
        self.head_dim = self.weights.hidden_size // self.num_heads
        self.residual_scale = network.residual_scale
        positions = torch.arange(network.max_sequence_length + 2, device=network.device)
        self.cos_sin_table = torch.stack(rotary_tables(positions, self.head_dim // 2, network.dtype))

    def __len__(self) -> int:
        return len(self.weights.layers)

    def iter_layers(
        self, x: torch.Tensor, attend: Attend, start: int = 0, stop: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Run the layers from `start` to before `stop` on x [N, D]; yield the hidden states [N, D] after each layer."""
        for index, layer in enumerate(self.weights.layers[start:stop], start):
            m = self._attention_block(layer, x, partial(attend, index))
            x = layer.to_h(layer.to_4h(m, gelu="tanh"), residual=m, alpha=self.residual_scale)
            yield x

    def _attention_block(self, layer: LayerWeights, x: torch.Tensor, attend: "partial[torch.Tensor]") -> torch.Tensor:
        """Return the MLP's input m [N, D]. A function of its own frees its temporaries before the MLP's memory peak."""
        h = layer.input_norm(x)
        context = attend(self._split_qkv(layer.query_key_value(h)))
        return layer.post_norm(layer.dense(context, residual=h, alpha=self.residual_scale))

    def run(self, x: torch.Tensor, attend: Attend, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Run the layers from `start` to before `stop`, by default all, on x [N, D]; return the last hidden states."""
        return deque(self.iter_layers(x, attend, start, stop), maxlen=1)[0]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V], in the dtype of x [N, D], for x, the hidden states after the last layer."""
        return self.weights.lm_head(self.weights.final_norm(x))

    def decode(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return the logits [B, V] after one new token [B] of each sequence."""
        return self.logits(self.run(self.network.embed_tokens(tokens), attend))

    def embed(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """Return the embedded prompt [T, D] of each request."""
        device = self.network.device
        return [
            self.network.embed(to_device(one.token_ids, device)[None], one.images, one.image_start)[0]
            for one in requests
        ]

    def _split_qkv(self, qkv: torch.Tensor) -> torch.Tensor:
        """View the output of query_key_value as [N, 3, H, head_dim]."""
        if self.network.qkv_interleaved:
            return qkv.view(-1, self.num_heads, 3, self.head_dim).transpose(1, 2)
        return qkv.view(-1, 3, self.num_heads, self.head_dim)
