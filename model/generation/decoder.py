"""The language model's forward pass: prefill prompts, then one token of every row at a time.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The residual branch is the normalised value, scaled by alpha. Context tokens, those before <sop>, see one another
in both directions; <sop> and the answer see what came before them.
`LayerDecoder` walks the layers by the names that every ChatGLM network uses; `ModelDecoder` calls the whole model,
for a network whose forward pass a mixin has changed.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ..kernels.choice import has_triton
from ..kernels.linear import Linear
from . import attention
from .attention import Attend
from .cache import KVCache, answer_positions
from .request import Request
from .weights import LayerWeights, embed_prompts, find_weights

# Yields after each layer, so that others may have their turn; returns the logits [n, V] of the prompts' next tokens.
Prefill = Generator[None, None, torch.Tensor]
MakeAttend = Callable[..., Attend]


class Rotary(Protocol):
    """Angles of rotary positions, see model/rotary.py."""

    def angles(self, positions: torch.Tensor) -> torch.Tensor: ...


class Network(Protocol):
    """What a decoder needs of a ChatGLM network; VisualGLMModel has it.

    Attributes:
        qkv_by_head: whether the rows of query_key_value lie head by head, [q k v] of each, not part by part.
    """

    transformer: Any  # word_embeddings, layers, final_layernorm
    heads: int
    rotary: Rotary
    lm_head: nn.Module
    qkv_by_head: bool
    residual_scale: float
    has_foreign_hooks: bool
    device: torch.device
    dtype: torch.dtype
    max_sequence_length: int
    vocabulary: int

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor: ...

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor: ...

    def bind_linear(self, module: nn.Module) -> Linear: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Decoder(Protocol):
    """Rows of tokens that grow side by side; the first ones are in use.

    Attributes:
        is_static: whether `decode` is a fixed series of operations on the device, for as long as `grow` is not called.
    """

    is_static: bool

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts."""
        ...

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows; return the logits [B, V] of their next.

        No row has more than `longest` tokens then; a single row has exactly as many, unless the decoder is static.
        """
        ...

    def use(self, count: int) -> None:
        """Say how many rows are in use: others that are decoded with them do not count."""
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source`, of `length` tokens, is."""
        ...

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none, so that they reach no other."""
        ...

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens, which are no fewer than before."""
        ...

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        ...


def make_decoder(network: Network) -> Decoder:
    """Choose how to run `network`."""
    if network.has_foreign_hooks:
        from .model_decoder import ModelDecoder  # imports this module

        return ModelDecoder(network)
    return LayerDecoder(network)


class LayerDecoder:
    """Runs the layers one by one with a KV cache of its own, which has no room until it grows."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.weights = find_weights(network)
        self.heads = network.heads
        self.head_dim = self.weights.width // self.heads
        self.alpha = network.residual_scale
        self.cache = self._make_cache(0, 0)
        self.index = torch.empty(0)
        self.is_static = network.device.type == "cuda" and has_triton(network.device) and suits(self.head_dim)
        self.attend_prompts: MakeAttend = attention.attend_prompts
        self.attend_tokens: MakeAttend = attention.attend_tokens
        if self.is_static:
            from . import gpu_attention  # imports triton

            self.attend_prompts, self.attend_tokens = gpu_attention.attend_prompts, gpu_attention.attend_tokens

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts."""
        contexts = [len(request.token_ids) - 1 for request in requests]
        for row, context in enumerate(contexts, start=first):
            positions = answer_positions(context + 1, self.cache.room, self.network.device)
            self.cache.begin_row(row, context, self.network.rotary.angles(positions.transpose(0, 1)))
        x = embed_prompts(self.network, list(requests), self.network.device)
        attend = self.attend_prompts(self.cache, first, contexts)
        for number, layer in enumerate(self.weights.layers):
            x = self._layer(number, layer, x, attend)
            yield
        self.cache.lengths[first : first + len(requests)] += 1
        return self._logits(x[-len(requests) :])

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        count = len(tokens)
        x = self.network.embed_tokens(tokens)
        attend = self.attend_tokens(self.cache, count, longest)
        for number, layer in enumerate(self.weights.layers):
            x = self._layer(number, layer, x, attend)
        self.cache.lengths[:count] += self.index[:count] < self.cache.used
        return self._logits(x)

    def use(self, count: int) -> None:
        """Say how many rows are in use."""
        self.cache.used.fill_(count)

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.cache.copy_row(source, target, length)

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none: a mask does not hide them from the next one in its place."""
        self.cache.clear_row(row)

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens."""
        self.cache = self.cache.grown(rows, room) if self.cache.rows else self._make_cache(rows, room)
        self.index = torch.arange(rows, device=self.network.device)

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        return [self.cache.lengths]

    def _make_cache(self, rows: int, room: int) -> KVCache:
        shape = (rows, self.heads, room, self.head_dim)
        return KVCache(len(self.weights.layers), shape, self.network.device, self.network.dtype)

    def _layer(self, number: int, weights: LayerWeights, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Run a layer on x [N, D]."""
        h = weights.input_norm(x)
        context = attend(number, self._split(weights.query_key_value(h)))
        m = weights.post_norm(weights.dense(context, residual=h, alpha=self.alpha))
        return weights.to_h(weights.to_4h(m, gelu=True), residual=m, alpha=self.alpha)

    def _split(self, qkv: torch.Tensor) -> torch.Tensor:
        """View the outputs of query_key_value as [N, 3, H, head_dim]."""
        if self.network.qkv_by_head:
            return qkv.view(-1, self.heads, 3, self.head_dim).transpose(1, 2)
        return qkv.view(-1, 3, self.heads, self.head_dim)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] after the last layer's x [N, D]."""
        return self.weights.lm_head(self.weights.final_norm(x)).float()


def suits(head_dim: int) -> bool:
    """Whether the GPU's kernels take heads of this width, a power of two."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0
