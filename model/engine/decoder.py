"""Run the language model with a KV cache: prefill prompts, then decode one token of every sequence per step.

The context, all tokens before <sop>, uses bidirectional attention; <sop> and the answer use causal attention. There are
three decoders: `EagerDecoder` runs the layers with torch's operations, `graph_decoder.CudaGraphDecoder` with Triton
kernels on a GPU, and `FallbackDecoder` calls the complete model, for mixins and hooks that change its forward pass.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from ..kernels.torch_ops import positions_2d, prefix_mask
from .kv_cache import CacheSlots, KVCache
from .layers import Layers, make_decode_attention, make_prefill_attention
from .network import Network, prefix_length, to_device
from .sequence import Request

Cache = TypeVar("Cache", bound=CacheSlots)
# Yields after each layer, so that decode steps can run in between; returns the logits [n, V] of the first new tokens.
Prefill = Generator[None, None, torch.Tensor]


class Decoder(Protocol):
    """Decodes a batch of sequences, which occupy the first slots.

    Attributes:
        is_graph_capturable: whether `decode` runs a fixed sequence of device operations between calls of `grow`.
        prefill_groups: maximum number of groups of waiting prompts that are prefilled between two decode steps.
    """

    is_graph_capturable: bool
    prefill_groups: int

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Prefill prompts into the slots from `first` on."""
        ...

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Append one token [B] to each of the first B slots; return the logits [B, V] of the next tokens.

        Args:
            tokens: int64 [B].
            longest: upper bound of the new lengths; the exact length for a single sequence without CUDA graphs.
        """
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Move a sequence of `length` tokens from the slot `source` to `target`, and free `source`."""
        ...

    def free(self, slot: int) -> None:
        """Mark a slot as free, so that a decode step over padded slots ignores it."""
        ...

    def clear(self, slot: int) -> None:
        """Clear a slot that contains NaN, so that it cannot reach the next sequence in the slot."""
        ...

    def grow(self, slots: int, capacity: int) -> None:
        """Allocate `slots` slots of at most `capacity` tokens each; neither may be less than before."""
        ...

    def reserve(self, first: int, capacities: Sequence[int]) -> None:
        """Allocate memory for sequences of these numbers of tokens in the slots from `first` on.

        Raises:
            RuntimeError: the device is out of memory; these slots stay free.
        """
        ...

    def counters(self) -> list[torch.Tensor]:
        """Return the device tensors, apart from the KV cache, that `decode` changes."""
        ...


def make_cache(layers: Layers, kind: Callable[..., Cache]) -> Cache:
    """Return a KV cache of a class for the layers, without slots."""
    network, shape = layers.network, (0, layers.num_heads, 0, layers.head_dim)
    return kind(len(layers), shape, network.device, network.dtype, prefix_length(network))


def context_lengths(requests: Sequence[Request]) -> list[int]:
    """Return the context length of each prompt, which is all tokens but <sop>."""
    return [len(request.token_ids) - 1 for request in requests]


def write_prefix(layers: Layers, cache: CacheSlots, first: int, count: int) -> None:
    """Write the network's current prefix, if it has one, into `count` slots from `first` on."""
    if cache.prefix_length:
        cache.write_prefix(range(first, first + count), layers.network.prefix)


def begin_slots(
    layers: Layers, cache: CacheSlots, first: int, contexts: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepare the slots from `first` on for a prefill; return the slots and the context lengths, int64 [n] each."""
    write_prefix(layers, cache, first, len(contexts))
    device = cache.lengths.device
    begun = torch.arange(first, first + len(contexts), device=device), to_device(contexts, device)
    cache.set_positions(*begun, layers.cos_sin_table)
    return begun


class CachedDecoder(Generic[Cache]):
    """Base class of the decoders with a KV cache. The cache has no slots until `grow` is called.

    Args:
        layers: the language model's layers.
        cache: an empty KV cache for them.
    """

    def __init__(self, layers: Layers, cache: Cache) -> None:
        self.layers = layers
        self.cache = cache

    def move(self, source: int, target: int, length: int) -> None:
        """Move a sequence from one slot to another."""
        self.cache.move_slot(source, target, length)

    def free(self, slot: int) -> None:
        """Mark a slot as free."""
        self.cache.free_slot(slot)

    def grow(self, slots: int, capacity: int) -> None:
        """Allocate `slots` slots of `capacity` tokens each."""
        self.cache = self.cache.grown(slots, capacity)

    def counters(self) -> list[torch.Tensor]:
        """Return the lengths of the slots."""
        return [self.cache.lengths]


class EagerDecoder(CachedDecoder[KVCache]):
    """Runs the layers with torch's operations and a KV cache."""

    is_graph_capturable = False
    prefill_groups = 1

    def __init__(self, layers: Layers) -> None:
        super().__init__(layers, make_cache(layers, KVCache))

    def reserve(self, first: int, capacities: Sequence[int]) -> None:
        """Do nothing: all slots have the capacity of `grow`."""

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Prefill prompts into the slots from `first` on."""
        contexts = context_lengths(requests)
        begun = begin_slots(self.layers, self.cache, first, contexts)
        embedded = self.layers.embed(requests)
        x = torch.cat([one[:-1] for one in embedded] + [one[-1:] for one in embedded])
        attend = make_prefill_attention(self.cache, first, contexts)
        for x in self.layers.iter_layers(x, attend):  # noqa: B007, B020  (each layer's output is the next one's input)
            yield
        self.cache.set_lengths(*begun)
        return self.layers.logits(x[-len(requests) :])

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Append one token [B] to each of the first B slots."""
        count = len(tokens)
        attend = make_decode_attention(self.cache, count, self.cache.prefix_length + longest)
        logits = self.layers.decode(tokens, attend)
        self.cache.lengths[:count] += 1
        return logits

    def clear(self, slot: int) -> None:
        """Zero a slot that contains NaN: an attention mask would not hide NaN from the next sequence in the slot."""
        self.cache.zero_slot(slot)


@dataclass
class SequenceCache:
    """The KV cache of one sequence, as the complete model returns it.

    Attributes:
        key_values: the keys and values of each layer.
        prompt_length: number of prompt tokens.
        length: number of tokens so far.
    """

    key_values: list[Any]
    prompt_length: int
    length: int


class FallbackDecoder:
    """Calls the complete model with its hooks, one sequence at a time, and keeps the returned keys and values."""

    is_graph_capturable = False
    prefill_groups = 1

    def __init__(self, network: Network) -> None:
        self.network = network
        self.slots: list[SequenceCache] = []

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Prefill prompts into the slots from `first` on."""
        logits = []
        for slot, request in enumerate(requests, start=first):
            logits.append(self._prefill_slot(slot, request))
            yield
        return torch.cat(logits)

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Append one token [B] to each of the first B slots."""
        return torch.cat([self._decode_one(cache, token) for cache, token in zip(self.slots, tokens, strict=False)])

    def move(self, source: int, target: int, length: int) -> None:
        """Move a sequence from one slot to another."""
        self.slots[target] = self.slots[source]

    def free(self, slot: int) -> None:
        """Drop the cache of a slot."""
        self.slots[slot] = SequenceCache([], 0, 0)

    def clear(self, slot: int) -> None:
        """Do nothing: slots share no memory."""

    def grow(self, slots: int, capacity: int) -> None:
        """Allocate `slots` slots."""
        self.slots += [SequenceCache([], 0, 0)] * (slots - len(self.slots))

    def reserve(self, first: int, capacities: Sequence[int]) -> None:
        """Do nothing: the cache of a sequence grows with its tokens."""

    def counters(self) -> list[torch.Tensor]:
        """Return nothing: the lengths are kept on the host."""
        return []

    def _prefill_slot(self, slot: int, request: Request) -> torch.Tensor:
        device, length = self.network.device, len(request.token_ids)
        index = torch.arange(length, device=device)
        positions = positions_2d(index, length - 1)
        mask = prefix_mask(index, length - 1)[None, None].to(self.network.dtype)
        image = {}
        if request.images is not None:
            image = {"image_embeddings": request.images, "pre_image": request.image_start}
        self.slots[slot] = SequenceCache([], length, 0)
        token_ids = torch.tensor([request.token_ids], device=device)
        return self._forward(self.slots[slot], token_ids, positions, mask, **image)

    def _decode_one(self, cache: SequenceCache, token: torch.Tensor) -> torch.Tensor:
        positions = positions_2d(torch.tensor([cache.length], device=token.device), cache.prompt_length - 1)
        mask = torch.ones(1, 1, device=token.device)
        return self._forward(cache, token.view(1, 1), positions, mask, past_key_values=cache.key_values)

    def _forward(
        self, cache: SequenceCache, token_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        logits: torch.Tensor
        logits, *layers = self.network(input_ids=token_ids, position_ids=positions[None], attention_mask=mask, **kwargs)
        cache.key_values = [layer["past_key_values"] for layer in layers]
        cache.length += token_ids.shape[1]
        return logits[:, -1].float()
