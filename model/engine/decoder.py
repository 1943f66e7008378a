"""The language model's forward pass with a past: prefill prompts, then one token of every row at a time.

Context tokens, those before <sop>, see one another in both directions; <sop> and the answer see what came before them.
There are three ways: `LayerDecoder` walks the layers with torch's operations, `graph_decoder.GraphDecoder` with kernels
for a GPU, and `model_decoder.ModelDecoder` calls the whole model, whose forward pass a mixin has changed.
"""

import functools
import logging
from collections.abc import Generator, Sequence
from typing import Protocol

import torch

from ..kernels.choice import has_triton
from . import attention
from .cache import KVCache
from .layers import Layers
from .network import Network, has_foreign_hooks, prefix_length, to_device
from .request import Request

# Yields after each layer, so that others may have their turn; returns the logits [n, V] of the prompts' next tokens.
Prefill = Generator[None, None, torch.Tensor]


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

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source`, of `length` tokens, is; that one is then free."""
        ...

    def free(self, row: int) -> None:
        """Take a row out of use: where it is decoded with others, it does not count."""
        ...

    def clear(self, row: int) -> None:
        """Forget what a row has, which are no numbers, so that they reach no other."""
        ...

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens, which are no fewer than before."""
        ...

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        ...


def make_decoder(network: Network) -> Decoder:
    """Choose how to run `network`."""
    if has_foreign_hooks(network):
        from .model_decoder import ModelDecoder  # imports this module

        tell(
            "A mixin or a hook changes this model's forward pass, so answers come from the whole model, "
            "row by row: more slowly than from its layers."
        )
        return ModelDecoder(network)
    layers = Layers(network)
    if network.device.type == "cuda" and has_triton(network.device) and suits(layers.head_dim):
        from .graph_decoder import GraphDecoder  # imports triton

        return GraphDecoder(layers)
    return LayerDecoder(layers)


@functools.cache
def tell(message: str) -> None:
    """Log a message, once in a program."""
    logging.getLogger(__name__).warning(message)


def suits(head_dim: int) -> bool:
    """Whether the GPU's kernels take heads of this width, a power of two."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0


def make_cache(layers: Layers, rows: int, room: int) -> KVCache:
    """Return an empty cache for the layers."""
    network = layers.network
    shape = rows, layers.heads, room, layers.head_dim
    return KVCache(len(layers), shape, network.device, network.dtype, prefix_length(network))


def contexts_of(requests: Sequence[Request]) -> list[int]:
    """Return the length of each prompt's context."""
    return [len(request.token_ids) - 1 for request in requests]


def put_prefix(layers: Layers, cache: KVCache, first: int, count: int) -> None:
    """Let so many rows from `first` on begin with the network's prefix, which training may have changed."""
    if cache.start:
        cache.put_prefix(slice(first, first + count), layers.network.prefix)


def begin_rows(layers: Layers, cache: KVCache, first: int, contexts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepare the rows from `first` on for prompts; return the rows and the lengths of their contexts, int64 [n]."""
    put_prefix(layers, cache, first, len(contexts))
    device = cache.lengths.device
    begun = torch.arange(first, first + len(contexts), device=device), to_device(contexts, device)
    cache.begin_rows(*begun, layers.angles)
    return begun


class LayerDecoder:
    """Runs the layers with a KV cache of its own, which has no room until it grows."""

    is_static = False

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.cache = make_cache(layers, 0, 0)

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts."""
        contexts = contexts_of(requests)
        begun = begin_rows(self.layers, self.cache, first, contexts)
        embedded = self.layers.embed(requests)
        x = torch.cat([one[:-1] for one in embedded] + [one[-1:] for one in embedded])
        attend = attention.attend_prompts(self.cache, first, contexts)
        for x in self.layers.walk(x, attend):  # noqa: B007, B020  (each layer's x is the next one's)
            yield
        self.cache.fill_rows(*begun)
        return self.layers.logits(x[-len(requests) :])

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        count = len(tokens)
        logits = self.layers.decode(tokens, attention.attend_tokens(self.cache, count, self.cache.start + longest))
        self.cache.lengths[:count] += 1
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.cache.move_row(source, target, length)

    def free(self, row: int) -> None:
        """Take a row out of use."""
        self.cache.free_row(row)

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none: a mask does not hide them from the next one in its place."""
        self.cache.clear_row(row)

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens."""
        self.cache = self.cache.grown(rows, room) if self.cache.rows else make_cache(self.layers, rows, room)

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        return [self.cache.lengths]
