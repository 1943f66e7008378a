"""The language model's forward pass: prefill prompts one by one, then one token of every row at a time.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The residual branch is the normalised value, scaled by alpha. Context tokens, those before <sop>, see one another
in both directions; <sop> and the answer see what came before them.
`LayerDecoder` walks the layers by the names that every ChatGLM network uses; `ModelDecoder` calls the whole model,
for a network whose forward pass a mixin has changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .cache import KVCache

# (layer, q, k, v) -> context, each [B, H, T, head_dim]
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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
    vocabulary: int

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor: ...

    def apply_linear(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Decoder(Protocol):
    """Rows of tokens that grow side by side; the first ones are in use."""

    def prefill(self, row: int, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Begin a row with a prompt [1, T]; return the logits [1, V] of its next token."""
        ...

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add one token [B] to each of the first B rows; return the logits [B, V] of their next."""
        ...

    def move(self, source: int, target: int) -> None:
        """Let row `target` go on where row `source` is."""
        ...

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none, so that they reach no other."""
        ...


def make_decoder(network: Network, rows: int, capacity: int) -> Decoder:
    """Choose how to run `network` for `rows` answers, each of up to `capacity` tokens with its prompt."""
    if network.has_foreign_hooks:
        return ModelDecoder(network, rows)
    return LayerDecoder(network, rows, capacity)


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
    the angles of a whole answer are computed with its prompt.
    """

    def __init__(self, network: Network, rows: int, capacity: int) -> None:
        self.network = network
        self.layers = list(network.transformer.layers)
        attention = self.layers[0].attention
        self.heads: int = attention.num_attention_heads
        self.head_dim: int = attention.hidden_size // self.heads
        self.capacity = capacity
        device, dtype = network.device, network.dtype
        shape = (rows, self.heads, capacity, self.head_dim)
        self.cache = KVCache.allocate(len(self.layers), shape, device, dtype)
        self.lengths = [0] * rows
        self.every_row = torch.arange(rows, device=device)
        # beside the two halves of q and k, and the heads
        self.cos = torch.empty(rows, capacity, 1, 1, 2, self.head_dim // 2, device=device, dtype=dtype)
        self.sin = torch.empty_like(self.cos)

    def prefill(self, row: int, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Begin a row with a prompt [1, T] and its picture's embeddings [1, L, D] from `image_start` on."""
        length = token_ids.shape[1]
        self._prepare_angles(row, length)
        mask = prompt_mask(length, token_ids.device)
        cos, sin = self.cos[row, :length], self.sin[row, :length]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.cache.store_row(layer, row, 0, k, v)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        self.lengths[row] = length
        return self._forward(self.network.embed(token_ids, images, image_start), cos, sin, attend)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        count = len(tokens)
        attend, cos, sin = self._one_row() if count == 1 else self._rows(count)
        for row in range(count):
            self.lengths[row] += 1
        return self._forward(self.network.transformer.word_embeddings(tokens[:, None]), cos, sin, attend)

    def move(self, source: int, target: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.cache.copy_row(source, target, self.lengths[source])
        self.lengths[target] = self.lengths[source]
        self.cos[target], self.sin[target] = self.cos[source], self.sin[source]

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none: a mask does not hide them from the next one in its place."""
        self.cache.clear_row(row)

    def _one_row(self) -> tuple[Attend, torch.Tensor, torch.Tensor]:
        """Return how a single row attends, without a mask, and its angles."""
        place = self.lengths[0]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.cache.store_row(layer, 0, place, k, v)
            return F.scaled_dot_product_attention(q, *self.cache.first_rows(layer, 1, place + 1))

        return attend, self.cos[0, place : place + 1], self.sin[0, place : place + 1]

    def _rows(self, count: int) -> tuple[Attend, torch.Tensor, torch.Tensor]:
        """Return how several rows attend, each to its own past, and their angles."""
        rows = self.every_row[:count]
        places = torch.tensor(self.lengths[:count], device=rows.device)
        longest = max(self.lengths[:count]) + 1
        visible = torch.arange(longest, device=rows.device) <= places[:, None, None, None]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.cache.store_column(layer, rows, places, k, v)
            keys, values = self.cache.first_rows(layer, count, longest)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)

        return attend, self.cos[rows, places][:, None], self.sin[rows, places][:, None]

    def _prepare_angles(self, row: int, prompt_length: int) -> None:
        positions = answer_positions(prompt_length, self.capacity, self.network.device)
        angles = self.network.rotary.angles(positions.transpose(0, 1))[:, None, None]
        self.cos[row] = angles.cos()
        self.sin[row] = angles.sin()

    def _forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run the layers on x [B, T, D]; return the logits [B, V] after the last place."""
        alpha = self.network.residual_scale
        for number, layer in enumerate(self.layers):
            h = layer.input_layernorm(x)
            a = torch.add(self._attention(number, layer.attention, h, cos, sin, attend), h, alpha=alpha)
            m = layer.post_attention_layernorm(a)
            x = torch.add(self._mlp(layer.mlp, m), m, alpha=alpha)
        last = self.network.transformer.final_layernorm(x[:, -1])
        return self.network.apply_linear(self.network.lm_head, last).float()

    def _attention(
        self, number: int, attention: Any, h: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        batch, length, _ = h.shape
        qkv = self.network.apply_linear(attention.query_key_value, h)
        qkv = qkv.view(batch, length, 3, self.heads, self.head_dim)
        qk = rotate(qkv[:, :, :2].unflatten(-1, (2, -1)), cos, sin).flatten(-2)  # [B, T, 2, H, head_dim]
        q, k = qk.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, head_dim]
        context = attend(number, q, k, qkv[:, :, 2].transpose(1, 2))
        return self.network.apply_linear(attention.dense, context.transpose(1, 2).flatten(2))

    def _mlp(self, mlp: Any, m: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(self.network.apply_linear(mlp.dense_h_to_4h, m), approximate="tanh")
        return self.network.apply_linear(mlp.dense_4h_to_h, inner)


@dataclass
class Past:
    """One row of a ModelDecoder: what the model returned for its tokens, and how many there are."""

    layers: list[Any]
    prompt_length: int
    length: int


class ModelDecoder:
    """Calls the model's own forward pass, hooks and all, row by row, and keeps the keys and values that it returns."""

    def __init__(self, network: Network, rows: int) -> None:
        self.network = network
        self.rows = [Past([], 0, 0)] * rows

    def prefill(self, row: int, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Begin a row with a prompt [1, T] and its picture's embeddings [1, L, D] from `image_start` on."""
        length = token_ids.shape[1]
        positions = answer_positions(length, length, token_ids.device)
        mask = prompt_mask(length, token_ids.device)[None, None].to(self.network.dtype)
        picture = {} if images is None else {"image_embeddings": images, "pre_image": image_start}
        self.rows[row] = Past([], length, 0)
        return self._forward(self.rows[row], token_ids, positions, mask, **picture)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        return torch.cat([self._decode_row(past, token) for past, token in zip(self.rows, tokens, strict=False)])

    def move(self, source: int, target: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.rows[target] = self.rows[source]

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none."""
        self.rows[row] = Past([], 0, 0)

    def _decode_row(self, past: Past, token: torch.Tensor) -> torch.Tensor:
        positions = torch.tensor(
            [[past.prompt_length - 2], [past.length - past.prompt_length + 2]], device=token.device
        )
        mask = torch.ones(1, 1, device=token.device)
        return self._forward(past, token.view(1, 1), positions, mask, past_key_values=past.layers)

    def _forward(
        self, past: Past, token_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        logits, *layers = self.network(input_ids=token_ids, position_ids=positions[None], attention_mask=mask, **kwargs)
        past.layers = [layer["past_key_values"] for layer in layers]
        past.length += token_ids.shape[1]
        return logits[:, -1].float()  # type: ignore[no-any-return]
