"""A plain transformer of the language model's size, decoded by torch.compile with a static KV cache, as gpt-fast does.

It is the peer of the decoding benchmark: no quantization, no image, no continuous batching, and one length for all
sequences. gpt-fast: https://github.com/pytorch-labs/gpt-fast
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.parts.machine import synchronize
from benchmarks.parts.prompts import SHORT

CACHE_LENGTH = 256
TOP_K = 100  # as in the demos
TEMPERATURE = 0.8


class PlainLayer(nn.Module):
    """A pre-norm layer: attention with a static KV cache [B, H, CACHE_LENGTH, head_dim], and a GELU MLP."""

    def __init__(self, hidden_size: int, inner_size: int, num_heads: int, batch_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.to_4h = nn.Linear(hidden_size, inner_size)
        self.to_h = nn.Linear(inner_size, hidden_size)
        shape = batch_size, num_heads, CACHE_LENGTH, hidden_size // num_heads
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, x: torch.Tensor, position: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [B, D] after the layer, for one new token of each sequence at `position` [1]."""
        qkv = self.query_key_value(self.attention_norm(x)).view(len(x), 3, self.num_heads, 1, -1)
        query, key, value = qkv.unbind(1)
        query, key = (rotate(one, rotation) for one in (query, key))
        keys, values = (cache.index_copy_(2, position, new) for cache, new in ((self.keys, key), (self.values, value)))
        visible = (torch.arange(CACHE_LENGTH, device=x.device) <= position)[None, None, None]
        context = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
        x = x + self.dense(context.flatten(1))
        return x + self.to_h(F.gelu(self.to_4h(self.mlp_norm(x)), approximate="tanh"))


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to heads [..., head_dim] with the cosines and sines [2, head_dim / 2] of one position."""
    first, second = x.chunk(2, -1)
    cos, sin = rotation
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class PlainNetwork(nn.Module):
    """A transformer with random weights that samples one token per sequence and step.

    Args:
        sizes: the keys of `full_size.SIZES` that the language model has.
        batch_size: B, sequences decoded at once.
    """

    def __init__(self, sizes: Mapping[str, Any], batch_size: int) -> None:
        super().__init__()
        hidden_size, num_heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.embedding = nn.Embedding(sizes["vocab_size"], hidden_size)
        self.layers = nn.ModuleList(
            PlainLayer(hidden_size, sizes["inner_hidden_size"], num_heads, batch_size)
            for _ in range(sizes["num_layers"])
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.lm_head = nn.Linear(hidden_size, sizes["vocab_size"], bias=False)
        frequencies = 10000.0 ** -torch.linspace(0, 1, hidden_size // num_heads // 2)
        angles = torch.arange(CACHE_LENGTH)[:, None] * frequencies
        self.register_buffer("rotations", torch.stack((angles.cos(), angles.sin()), 1))

    def forward(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return the next token of each sequence, int64 [B], for its token at `position` [1]."""
        x, rotation = self.embedding(tokens), self.rotations[position][0]
        for layer in self.layers:
            x = layer(x, position, rotation)
        logits, candidates = self.lm_head(self.norm(x)).float().topk(TOP_K)
        probabilities = (logits / TEMPERATURE).softmax(-1)
        chosen = (probabilities / torch.empty_like(probabilities).exponential_(1)).argmax(-1, keepdim=True)
        return candidates.gather(1, chosen)[:, 0]


class CompiledBackend:
    """Decodes `PlainNetwork`, compiled with CUDA graphs, for one number of sequences after another.

    Args:
        sizes: see `PlainNetwork`.
        device: a CUDA device.
        dtype: of the weights.
    """

    def __init__(self, sizes: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        self.sizes, self.device, self.dtype = sizes, device, dtype

    @torch.inference_mode()
    def step_ms(self, count: int, tokens: int) -> float:
        """Return the median milliseconds of a step of `count` sequences, after a prompt of SHORT tokens."""
        torch.compiler.reset()
        with self.device:
            network = PlainNetwork(self.sizes, count).to(self.dtype).eval()
        step = torch.compile(network, mode="reduce-overhead", fullgraph=True, dynamic=False)
        chosen = torch.zeros(count, dtype=torch.long, device=self.device)
        seconds = []
        for position in torch.arange(SHORT, SHORT + tokens, device=self.device).split(1):
            synchronize(self.device)
            started = time.perf_counter()
            chosen = step(chosen, position).clone()
            synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds) * 1e3
