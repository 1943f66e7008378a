"""The layers of ChatGLM-6B.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The residual branch is the normalised value, scaled by alpha = sqrt(2 x layers). The rows of query_key_value lie by
head: [q k v] of head 0, [q k v] of head 1, ...
Papers: GLM, https://arxiv.org/abs/2103.10360; rotary positions, https://arxiv.org/abs/2104.09864; P-tuning v2,
https://arxiv.org/abs/2110.07602.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_chatglm import ChatGLMConfig
from .quantization import QuantizedLinear

ROTARY_BASE = 10000.0


def rotary_tables(positions: torch.Tensor, head_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin [B, T, 1, 1, 2, head_dim / 2] for positions [B, 2, T].

    Each half of a head turns by one of the two positions; its first sines are negative, as `rotate` wants them. The
    frequencies are rounded to half precision, as every half-precision run of the original has them, while angles are
    computed in float32: in half they would lose 0.5 rad above position 512.
    """
    exponents = torch.arange(0, head_dim // 2, 2, device=positions.device).float() / (head_dim // 2)
    frequencies = (1.0 / ROTARY_BASE**exponents).half().float()  # [head_dim / 4]
    half = positions.transpose(1, 2).float()[..., None] * frequencies  # [B, T, 2, head_dim / 4]
    cos, sin = half.cos(), half.sin()
    tables = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    return tables[0][:, :, None, None].to(dtype), tables[1][:, :, None, None].to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [B, T, H, N, head_dim], whose halves have each their own angles."""
    parts = x.unflatten(-1, (2, -1))
    swapped = parts.roll(parts.shape[-1] // 2, dims=-1)
    return torch.addcmul(parts * cos, swapped, sin).flatten(-2)


def make_linear(config: ChatGLMConfig, inputs: int, outputs: int) -> nn.Module:
    """Return a linear layer with a bias, quantised where the configuration says so."""
    if config.quantization_bit:
        return QuantizedLinear(inputs, outputs, config.quantization_bit)
    return nn.Linear(inputs, outputs)


def stored_length(cache: Any, number: int = 0) -> int:
    """Return how many tokens layer `number` of a transformers cache holds; 0 without a cache."""
    return 0 if cache is None else int(cache.get_seq_length(number))


class PrefixEncoder(nn.Module):
    """The keys and values of P-tuning v2, which the tokens of every row see in each layer, without positions."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.shape = (config.num_layers, 2, config.num_attention_heads, -1)
        self.embedding = nn.Embedding(
            config.pre_seq_len or 0, config.num_layers * 2 * config.hidden_size
        )  # checkpoint key

    def forward(self) -> tuple[torch.Tensor, ...]:
        """Return keys and values [2, H, P, head_dim] for each layer."""
        whole: torch.Tensor = self.embedding.weight.unflatten(-1, self.shape)  # [P, layers, 2, H, head_dim]
        return whole.permute(1, 2, 3, 0, 4).unbind(0)


class SelfAttention(nn.Module):
    """Attention with two-dimensional rotary positions."""

    def __init__(self, config: ChatGLMConfig, number: int) -> None:
        super().__init__()
        self.number = number
        self.head_dim: int = config.hidden_size // config.num_attention_heads
        self.query_key_value = make_linear(config, config.hidden_size, 3 * config.hidden_size)  # checkpoint key
        self.dense = make_linear(config, config.hidden_size, config.hidden_size)  # checkpoint key

    def forward(
        self,
        h: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return [B, T, D] for h [B, T, D].

        The mask [B, 1, T, S] is True where a row sees a column, None for all; the first columns are those of the
        prefix [2, H, P, head_dim], if there is one.
        """
        qkv = self.query_key_value(h).unflatten(-1, (-1, 3, self.head_dim))  # [B, T, H, 3, head_dim]
        turned = rotate(qkv[..., :2, :], cos, sin)  # queries and keys together
        query, key, value = (one.transpose(1, 2) for one in (*turned.unbind(-2), qkv[..., 2, :]))  # [B, H, T, head_dim]
        if cache is not None:
            length = stored_length(cache, self.number) + h.shape[1]
            key, value = cache.update(key, value, self.number)
            key, value = key[:, :, :length], value[:, :, :length]  # a cache of fixed size has empty places
        if prefix is not None:
            seen = prefix.to(key.dtype)[:, None].expand(-1, len(key), -1, -1, -1)
            key, value = torch.cat((seen[0], key), dim=2), torch.cat((seen[1], value), dim=2)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.dense(context.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class GLU(nn.Module):
    """The MLP. It has no gate, in spite of the name that the published code gave it."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = make_linear(config, config.hidden_size, config.inner_hidden_size)  # checkpoint key
        self.dense_4h_to_h = make_linear(config, config.inner_hidden_size, config.hidden_size)  # checkpoint key

    def forward(self, m: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(m), approximate="tanh"))  # type: ignore[no-any-return]


class GLMBlock(GradientCheckpointingLayer):  # public name
    """One layer of the language model."""

    def __init__(self, config: ChatGLMConfig, number: int) -> None:
        super().__init__()
        self.alpha = float((2 * config.num_layers) ** 0.5)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)  # checkpoint key
        self.attention = SelfAttention(config, number)  # checkpoint key
        self.post_attention_layernorm = nn.LayerNorm(  # checkpoint key
            config.hidden_size, eps=config.layernorm_epsilon
        )
        self.mlp = GLU(config)  # checkpoint key

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        past_key_values: Any = None,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return [B, T, D] for x [B, T, D]."""
        h = self.input_layernorm(x)
        a = torch.add(self.attention(h, cos, sin, mask, past_key_values, prefix), h, alpha=self.alpha)
        m = self.post_attention_layernorm(a)
        return torch.add(self.mlp(m), m, alpha=self.alpha)
