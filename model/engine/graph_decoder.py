"""CUDA-graph decoding: kernels read lengths from device memory, so a graph serves all lengths of its bucket."""

from collections.abc import Sequence
from functools import partial

import torch

from ..kernels.triton.decode_attention import attend_decode
from ..kernels.triton.prefill_attention import attend_prefill
from .cuda_graph import (
    LAYERS_PER_GRAPH,
    LONG_PREFILL_STEP,
    PREFILL_BATCH_BUCKETS,
    PREFILL_LENGTH_BUCKETS,
    CudaGraphs,
    fits_prefill_graph,
    pad_to_bucket,
    round_up,
)
from .decoder import CachedDecoder, Prefill, begin_slots, context_lengths, make_cache, write_prefix
from .layers import Attend, Layers
from .prefill import PrefillInputs
from .sequence import Request
from .sequence_kv_cache import SequenceKVCache


class CudaGraphDecoder(CachedDecoder[SequenceKVCache]):
    """Runs the layers with Triton kernels and a KV cache, which has no slots until `grow` is called.

    Short prompts are prefilled by one CUDA graph with padded inputs, a long one by several graphs of a few layers, and
    several long ones together without graphs.
    """

    is_graph_capturable = True
    prefill_groups = 2  # more of them give more tokens/s, but running answers pause longer

    def __init__(self, layers: Layers) -> None:
        super().__init__(layers, make_cache(layers, SequenceKVCache))
        self.graphs = CudaGraphs()
        self.device, self.dtype = layers.network.device, layers.network.dtype
        self.prefill_inputs = PrefillInputs(layers.network, layers.weights.hidden_size)
        # Of graphs of a few layers: input, output [2, N, D], and the slot [1] and filled positions [1] of the prompt.
        self.hidden_states = torch.zeros(2, 0, layers.weights.hidden_size, device=self.device, dtype=self.dtype)
        self.slot, self.filled = torch.zeros(2, 1, dtype=torch.long, device=self.device)
        self.prefill_logits = torch.zeros(PREFILL_BATCH_BUCKETS[-1], layers.network.vocab_size, device=self.device)

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Prefill prompts into the slots from `first` on; short ones in a single step."""
        contexts = context_lengths(requests)
        if not fits_prefill_graph(contexts):
            if len(requests) == 1:
                return (yield from self._prefill_by_graphs(first, requests[0], contexts[0]))
            return (yield from self._prefill_by_layers(first, requests, contexts))
        count = pad_to_bucket(len(requests), PREFILL_BATCH_BUCKETS)
        length = pad_to_bucket(max(contexts), PREFILL_LENGTH_BUCKETS)
        write_prefix(self.layers, self.cache, first, len(requests))
        self.prefill_inputs.copy_in(first, requests, count, length, self.cache.prefix_length)
        self.graphs.run((count, length), lambda: self._prefill_padded(count, length))
        return self.prefill_logits[: len(requests)]

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Append one token [B] to each of the first B slots; free slots among them are ignored."""
        count = len(tokens)
        cache = self.cache

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            return attend_decode(
                qkv, (cache.cos, cache.sin), cache.layers[layer], cache.lengths, cache.prefix_length + longest
            )

        logits = self.layers.decode(tokens, attend)
        cache.lengths[:count] += cache.lengths[:count] >= 0
        return logits

    def clear(self, slot: int) -> None:
        """Do nothing: the kernels never read beyond the length of a slot."""

    def grow(self, slots: int, capacity: int) -> None:
        """Allocate `slots` slots of at most `capacity` tokens each; drops the captured graphs, whose buffers move."""
        self.graphs.clear()
        super().grow(slots, capacity)
        rows, width = round_up(self.cache.capacity, LONG_PREFILL_STEP), self.layers.weights.hidden_size
        self.hidden_states = torch.zeros(2, rows, width, device=self.device, dtype=self.dtype)

    def reserve(self, first: int, capacities: Sequence[int]) -> None:
        """Allocate memory for sequences of these numbers of tokens in the slots from `first` on."""
        self.cache.reserve(first, capacities)

    def _prefill_padded(self, count: int, length: int) -> None:
        """Prefill the prompts in the static input buffers; write the logits to the static output buffer."""
        prompts = self.prefill_inputs.view(count, length)
        self.cache.set_positions(prompts.slots, prompts.contexts, self.layers.cos_sin_table)
        attend = self._make_prefill_attention(prompts.slots, prompts.lengths, length)
        x = self.layers.run(self.prefill_inputs.embed(prompts), attend)
        self.prefill_logits[:count] = self.layers.logits(x[-count:])
        self.cache.set_lengths(prompts.slots, prompts.contexts)

    def _prefill_by_graphs(self, first: int, request: Request, context: int) -> Prefill:
        """Prefill one long prompt, yielding after each layer; every few layers are a graph with padded inputs."""
        length = round_up(context + 1, LONG_PREFILL_STEP) - 1
        slots, lengths = begin_slots(self.layers, self.cache, first, [context])
        self.slot.copy_(slots)
        self.filled.copy_(self.cache.prefix_length + lengths)
        x, y = self.hidden_states[:, : length + 1]
        [embedded] = self.layers.embed([request])
        x[:context], x[context:length], x[length] = embedded[:-1], 0, embedded[-1]
        for start in range(0, len(self.layers), LAYERS_PER_GRAPH):
            stop = min(start + LAYERS_PER_GRAPH, len(self.layers))
            self.graphs.run(("layers", start, length), partial(self._run_layers, x, y, start, stop))
            x, y = y, x
            for _ in range(start, stop):
                yield
        self.cache.set_lengths(slots, lengths)
        return self.layers.logits(x[-1:])

    def _run_layers(self, x: torch.Tensor, y: torch.Tensor, start: int, stop: int) -> None:
        """Run the layers from `start` to before `stop` on x [N, D], a padded context and its <sop>; fill y [N, D]."""
        attend = self._make_prefill_attention(self.slot, self.filled, len(x) - 1)
        y.copy_(self.layers.run(x, attend, start, stop))

    def _prefill_by_layers(self, first: int, requests: Sequence[Request], contexts: list[int]) -> Prefill:
        """Prefill prompts of any length, yielding after each layer."""
        slots, lengths = begin_slots(self.layers, self.cache, first, contexts)
        longest, count = max(contexts), len(requests)
        x = torch.zeros(count * (longest + 1), self.layers.weights.hidden_size, device=self.device, dtype=self.dtype)
        for index, prompt in enumerate(self.layers.embed(requests)):
            x[index * longest : index * longest + len(prompt) - 1] = prompt[:-1]
            x[count * longest + index] = prompt[-1]
        attend = self._make_prefill_attention(slots, self.cache.prefix_length + lengths, longest)
        for x in self.layers.iter_layers(x, attend):  # noqa: B007, B020  (each layer's output is the next one's input)
            yield
        self.cache.set_lengths(slots, lengths)
        return self.layers.logits(x[-count:])

    def _make_prefill_attention(self, slots: torch.Tensor, lengths: torch.Tensor, padded_length: int) -> Attend:
        """Return the attention function of a prefill: all padded contexts come first, then the <sop> of each.

        Args:
            slots: int64 [n], slot of each prompt.
            lengths: int64 [n], filled positions of each slot before its <sop>; -1 for padding prompts.
            padded_length: T, tokens of each padded context.
        """
        num_context_tokens = len(slots) * padded_length

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            context = torch.empty(len(qkv), self.layers.weights.hidden_size, device=self.device, dtype=qkv.dtype)
            cache = self.cache
            past = (cache.cos, cache.sin), cache.layers[layer], lengths
            attend_prefill(qkv[:num_context_tokens], *past, slots, cache.prefix_length, context[:num_context_tokens])
            longest = cache.prefix_length + padded_length + 1
            attend_decode(qkv[num_context_tokens:], *past, longest, slots, context[num_context_tokens:])
            return context

        return attend
