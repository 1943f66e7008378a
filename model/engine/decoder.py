"""Run the language model with a cache: prefill prompts, then decode one token of every row at a time.

Context tokens, those before <sop>, see one another in both directions; <sop> and the answer see what came before them.
There are three ways: `EagerDecoder` walks the layers with torch's operations, `graph_decoder.CudaGraphDecoder` with
kernels for a GPU, and `FallbackDecoder` calls the whole model, whose forward pass a mixin has changed.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..kernels.torch_ops import positions_2d, prefix_mask
from . import layers as attention
from .kv_cache import KVCache
from .layers import Layers
from .network import Network, prefix_length, to_device
from .sequence import Request

# Yields after each layer, so that others may have their turn; returns the logits [n, V] of the prompts' next tokens.
Prefill = Generator[None, None, torch.Tensor]


class Decoder(Protocol):
    """Rows of tokens that grow side by side; the first ones are in use.

    Attributes:
        is_static: whether `decode` is a fixed series of operations on the device, for as long as `grow` is not called.
    """

    is_graph_capturable: bool

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


def make_cache(layers: Layers, rows: int, room: int) -> KVCache:
    """Return an empty cache for the layers."""
    network = layers.network
    shape = rows, layers.num_heads, room, layers.head_dim
    return KVCache(len(layers), shape, network.device, network.dtype, prefix_length(network))


def context_lengths(requests: Sequence[Request]) -> list[int]:
    """Return the length of each prompt's context."""
    return [len(request.token_ids) - 1 for request in requests]


def write_prefix(layers: Layers, cache: KVCache, first: int, count: int) -> None:
    """Let so many rows from `first` on begin with the network's prefix, which training may have changed."""
    if cache.start:
        cache.write_prefix(slice(first, first + count), layers.network.prefix)


def begin_slots(layers: Layers, cache: KVCache, first: int, contexts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepare the rows from `first` on for prompts; return the rows and the lengths of their contexts, int64 [n]."""
    write_prefix(layers, cache, first, len(contexts))
    device = cache.lengths.device
    begun = torch.arange(first, first + len(contexts), device=device), to_device(contexts, device)
    cache.set_positions(*begun, layers.angles)
    return begun


class EagerDecoder:
    """Runs the layers with a KV cache of its own, which has no room until it grows."""

    is_graph_capturable = False

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.cache = make_cache(layers, 0, 0)

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts."""
        contexts = context_lengths(requests)
        begun = begin_slots(self.layers, self.cache, first, contexts)
        embedded = self.layers.embed(requests)
        x = torch.cat([one[:-1] for one in embedded] + [one[-1:] for one in embedded])
        attend = attention.attend_prefill(self.cache, first, contexts)
        for x in self.layers.walk(x, attend):  # noqa: B007, B020  (each layer's x is the next one's)
            yield
        self.cache.set_lengths(*begun)
        return self.layers.logits(x[-len(requests) :])

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        count = len(tokens)
        logits = self.layers.decode(tokens, attention.attend_decode(self.cache, count, self.cache.start + longest))
        self.cache.lengths[:count] += 1
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.cache.move_slot(source, target, length)

    def free(self, row: int) -> None:
        """Take a row out of use."""
        self.cache.free_slot(row)

    def clear(self, row: int) -> None:
        """Forget a row whose numbers are none: a mask does not hide them from the next one in its place."""
        self.cache.zero_slot(row)

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens."""
        self.cache = self.cache.grown(rows, room) if self.cache.rows else make_cache(self.layers, rows, room)

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        return [self.cache.lengths]


@dataclass
class SequenceCache:
    """One row: what the model returned for its tokens, and how many there are."""

    layers: list[Any]
    prompt_length: int
    length: int


class FallbackDecoder:
    """Calls the model's own forward pass, hooks and all, row by row, and keeps the keys and values that it returns."""

    is_graph_capturable = False

    def __init__(self, network: Network) -> None:
        self.network = network
        self.rows: list[SequenceCache] = []

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts."""
        logits = []
        for row, request in enumerate(requests, start=first):
            logits.append(self._read(row, request))
            yield
        return torch.cat(logits)

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        return torch.cat([self._decode_row(past, token) for past, token in zip(self.rows, tokens, strict=False)])

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.rows[target] = self.rows[source]

    def free(self, row: int) -> None:
        """Forget a row that is not in use."""
        self.rows[row] = SequenceCache([], 0, 0)

    def clear(self, row: int) -> None:
        """Nothing to do: rows share nothing."""

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows; their tokens take what they need."""
        self.rows += [SequenceCache([], 0, 0)] * (rows - len(self.rows))

    def counters(self) -> list[torch.Tensor]:
        """Nothing is counted on the device."""
        return []

    def _read(self, row: int, request: Request) -> torch.Tensor:
        device, length = self.network.device, len(request.token_ids)
        index = torch.arange(length, device=device)
        positions = positions_2d(index, length - 1)
        mask = prefix_mask(index, length - 1)[None, None].to(self.network.dtype)
        picture = {}
        if request.images is not None:
            picture = {"image_embeddings": request.images, "pre_image": request.image_start}
        self.rows[row] = SequenceCache([], length, 0)
        return self._forward(
            self.rows[row], torch.tensor([request.token_ids], device=device), positions, mask, **picture
        )

    def _decode_row(self, past: SequenceCache, token: torch.Tensor) -> torch.Tensor:
        positions = positions_2d(torch.tensor([past.length], device=token.device), past.prompt_length - 1)
        mask = torch.ones(1, 1, device=token.device)
        return self._forward(past, token.view(1, 1), positions, mask, past_key_values=past.layers)

    def _forward(
        self, past: SequenceCache, token_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        logits: torch.Tensor
        logits, *layers = self.network(input_ids=token_ids, position_ids=positions[None], attention_mask=mask, **kwargs)
        past.layers = [layer["past_key_values"] for layer in layers]
        past.length += token_ids.shape[1]
        return logits[:, -1].float()
