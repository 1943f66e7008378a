"""The language model's forward pass: prefill a prompt, then one token at a time.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The residual branch is the normalised value, scaled by alpha. Context tokens, those before <sop>, see one another
in both directions; <sop> and the answer see what came before them.
`LayerDecoder` walks the layers by the names that every ChatGLM network uses; `ModelDecoder` calls the whole model,
for a network whose forward pass a mixin has changed.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .cache import KVCache


class Rotary(Protocol):
    """Angles of rotary positions, see model/rotary.py."""

    def angles(self, positions: torch.Tensor) -> torch.Tensor: ...


class Network(Protocol):
    """What a decoder needs of a ChatGLM network; VisualGLMModel has it."""

    transformer: Any  # word_embeddings, layers, final_layernorm
    rotary: Rotary
    lm_head: nn.Module
    residual_scale: float
    has_foreign_hooks: bool
    device: torch.device
    dtype: torch.dtype
    max_sequence_length: int

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor: ...

    def apply_linear(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Decoder(Protocol):
    """Logits [1, V] of the next token: once for the prompt, then once for each token that follows."""

    def prefill(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor: ...

    def decode_one_token(self, token_id: torch.Tensor) -> torch.Tensor: ...


def make_decoder(network: Network, capacity: int) -> Decoder:
    """Choose how to run `network` for up to `capacity` tokens."""
    return ModelDecoder(network) if network.has_foreign_hooks else LayerDecoder(network, capacity)


def answer_positions(prompt_length: int, length: int, device: torch.device) -> torch.Tensor:
    """Return the positions [2, length] of a prompt that ends with [gMASK] <sop>, and of the answer after it.

    Row 0 counts the context and stays at [gMASK]'s place from <sop> on; row 1 counts from <sop>.
    """
    context = prompt_length - 1
    index = torch.arange(length, device=device)
    return torch.stack((index.clamp(max=context - 1), (index - context + 1).clamp(min=0)))


def prompt_mask(length: int, device: torch.device) -> torch.Tensor:
    """Return [length, length], True where a row sees a column: all but <sop>, the last, which only it sees."""
    visible = torch.ones(length, length, dtype=torch.bool, device=device)
    visible[:-1, -1] = False
    return visible


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [..., 2, head_dim / 2], whose halves have each their own angles, of a shape that broadcasts to it."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((-second, first), dim=-1), sin)


class LayerDecoder:
    """Runs the layers one by one with a KV cache of its own.

    On a small model, calling torch costs more than what torch computes, so queries and keys turn together, and
    the angles of the whole answer are computed with the prompt.
    """

    def __init__(self, network: Network, capacity: int) -> None:
        self.network = network
        self.layers = list(network.transformer.layers)
        attention = self.layers[0].attention
        self.heads: int = attention.num_attention_heads
        self.head_dim: int = attention.hidden_size // self.heads
        self.capacity = capacity
        shape = (1, self.heads, capacity, self.head_dim)
        self.cache = KVCache.allocate(len(self.layers), shape, network.device, network.dtype)
        self.cos = self.sin = torch.empty(0)

    def prefill(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Read the prompt [1, T] with the picture's embeddings [1, L, D] from `image_start` on."""
        length = token_ids.shape[1]
        self._prepare_angles(length)
        mask = prompt_mask(length, token_ids.device)
        return self._forward(self.network.embed(token_ids, images, image_start), mask)

    def decode_one_token(self, token_id: torch.Tensor) -> torch.Tensor:
        """Read one more token [1, 1] of the answer."""
        return self._forward(self.network.transformer.word_embeddings(token_id), None)

    def _prepare_angles(self, prompt_length: int) -> None:
        positions = answer_positions(prompt_length, self.capacity, self.network.device)
        angles = self.network.rotary.angles(positions.transpose(0, 1))  # [capacity, 2, head_dim / 2]
        shape = (self.capacity, 1, 1, 2, self.head_dim // 2)  # beside q and k, and the heads
        self.cos = angles.cos().to(self.network.dtype).view(shape)
        self.sin = angles.sin().to(self.network.dtype).view(shape)

    def _forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        start, end = self.cache.length, self.cache.length + x.shape[1]
        cos, sin = self.cos[start:end], self.sin[start:end]
        alpha = self.network.residual_scale
        for number, layer in enumerate(self.layers):
            h = layer.input_layernorm(x)
            a = torch.add(self._attention(number, layer.attention, h, cos, sin, mask), h, alpha=alpha)
            m = layer.post_attention_layernorm(a)
            x = torch.add(self._mlp(layer.mlp, m), m, alpha=alpha)
        self.cache.length = end
        last = self.network.transformer.final_layernorm(x[:, -1])
        return self.network.apply_linear(self.network.lm_head, last).float()

    def _attention(
        self,
        number: int,
        attention: Any,
        h: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        batch, length, _ = h.shape
        qkv = self.network.apply_linear(attention.query_key_value, h)
        qkv = qkv.view(batch, length, 3, self.heads, self.head_dim)
        qk = rotate(qkv[:, :, :2].unflatten(-1, (2, -1)), cos, sin).flatten(-2)  # [B, T, 2, H, head_dim]
        q, k = qk.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, head_dim]
        keys, values = self.cache.store(number, k, qkv[:, :, 2].transpose(1, 2))
        context = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.network.apply_linear(attention.dense, context.transpose(1, 2).flatten(2))

    def _mlp(self, mlp: Any, m: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(self.network.apply_linear(mlp.dense_h_to_4h, m), approximate="tanh")
        return self.network.apply_linear(mlp.dense_4h_to_h, inner)


class ModelDecoder:
    """Calls the model's own forward pass, hooks and all, and keeps the keys and values that it returns."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.past: list[Any] = []
        self.prompt_length = 0
        self.length = 0

    def prefill(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Read the prompt [1, T] with the picture's embeddings [1, L, D] from `image_start` on."""
        self.prompt_length = token_ids.shape[1]
        positions = answer_positions(self.prompt_length, self.prompt_length, token_ids.device)
        mask = prompt_mask(self.prompt_length, token_ids.device)[None, None].to(self.network.dtype)
        picture = {} if images is None else {"image_embeddings": images, "pre_image": image_start}
        return self._forward(token_ids, positions, mask, **picture)

    def decode_one_token(self, token_id: torch.Tensor) -> torch.Tensor:
        """Read one more token [1, 1] of the answer."""
        positions = torch.tensor(
            [[self.prompt_length - 2], [self.length - self.prompt_length + 2]], device=token_id.device
        )
        mask = torch.ones(1, 1, device=token_id.device)
        return self._forward(token_id, positions, mask, past_key_values=self.past)

    def _forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        logits, *layers = self.network(input_ids=token_ids, position_ids=positions[None], attention_mask=mask, **kwargs)
        self.past = [layer["past_key_values"] for layer in layers]
        self.length += token_ids.shape[1]
        return logits[:, -1].float()  # type: ignore[no-any-return]
