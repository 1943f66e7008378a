"""Decode on a GPU with kernels that read the length of rows there, so that one CUDA graph serves any length."""

from collections.abc import Sequence

import torch

from ..kernels.triton.decode_attention import attend_decode
from ..kernels.triton.prefill_attention import attend_prefill
from .cuda_graph import PREFILL_BATCH_BUCKETS, PREFILL_LENGTH_BUCKETS, CudaGraphs, fits_prefill_graph, pad_to_bucket
from .decoder import Prefill, begin_slots, context_lengths, make_cache, write_prefix
from .layers import Attend, Layers
from .prefill import PrefillInputs
from .sequence import Request


class CudaGraphDecoder:
    """Runs the layers with a KV cache of its own, which has no room until it grows."""

    is_graph_capturable = True

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.graphs = CudaGraphs()
        self.device, self.dtype = layers.network.device, layers.network.dtype
        self.cache = make_cache(layers, 0, 0)
        self.prompts = PrefillInputs(layers.network, layers.weights.width)
        self.read_logits = torch.zeros(PREFILL_BATCH_BUCKETS[-1], layers.network.vocab_size, device=self.device)

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts; short ones are read at once."""
        contexts = context_lengths(requests)
        if not fits_prefill_graph(contexts):
            return (yield from self._read_long(first, requests, contexts))
        count, length = (
            pad_to_bucket(len(requests), PREFILL_BATCH_BUCKETS),
            pad_to_bucket(max(contexts), PREFILL_LENGTH_BUCKETS),
        )
        write_prefix(self.layers, self.cache, first, len(requests))
        self.prompts.place(first, requests, count, length, self.cache.start)
        self.graphs.run((count, length), lambda: self._read(count, length))
        return self.read_logits[: len(requests)]

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        count = len(tokens)

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            angles = self.cache.cos, self.cache.sin
            places = self.cache.start + longest
            return attend_decode(qkv, angles, self.cache.pairs[layer], self.cache.lengths, places)

        logits = self.layers.decode(tokens, attend)
        self.cache.lengths[:count] += self.cache.lengths[:count] >= 0
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.cache.move_slot(source, target, length)

    def free(self, row: int) -> None:
        """Take a row out of use: a graph computes more rows than are, which must not count."""
        self.cache.free_slot(row)

    def clear(self, row: int) -> None:
        """Nothing to do: the kernels read no further than a row goes."""

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens."""
        self.graphs.clear()
        self.cache = self.cache.grown(rows, room) if self.cache.rows else make_cache(self.layers, rows, room)

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        return [self.cache.lengths]

    def _read(self, count: int, length: int) -> None:
        """Read prompts from their places, and leave the logits in theirs."""
        placed = self.prompts.placed(count, length)
        self.cache.set_positions(placed.rows, placed.contexts, self.layers.angles)
        attend = self._attend_prompts(placed.rows, placed.filled, length)
        x = self.layers.run(self.prompts.embed(placed), attend)
        self.read_logits[:count] = self.layers.logits(x[-count:])
        self.cache.set_lengths(placed.rows, placed.contexts)

    def _read_long(self, first: int, requests: Sequence[Request], contexts: list[int]) -> Prefill:
        """Read prompts layer by layer."""
        rows, lengths = begin_slots(self.layers, self.cache, first, contexts)
        longest, count = max(contexts), len(requests)
        x = torch.zeros(count * (longest + 1), self.layers.weights.width, device=self.device, dtype=self.dtype)
        for number, prompt in enumerate(self.layers.embed(requests)):
            x[number * longest : number * longest + len(prompt) - 1] = prompt[:-1]
            x[count * longest + number] = prompt[-1]
        attend = self._attend_prompts(rows, self.cache.start + lengths, longest)
        for x in self.layers.walk(x, attend):  # noqa: B007, B020  (each layer's x is the next one's)
            yield
        self.cache.set_lengths(rows, lengths)
        return self.layers.logits(x[-count:])

    def _attend_prompts(self, rows: torch.Tensor, lengths: torch.Tensor, places: int) -> Attend:
        """Return how prompts attend whose contexts have `places` each, the <sop> of each coming after all of them.

        Args:
            lengths: int64 [n], places of each row that are filled before its <sop>.
        """
        tokens = len(rows) * places

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            found = torch.empty(len(qkv), self.layers.weights.width, device=self.device, dtype=qkv.dtype)
            cache = self.cache
            past = (cache.cos, cache.sin), cache.pairs[layer], lengths
            attend_prefill(qkv[:tokens], *past, rows, cache.start, found[:tokens])
            attend_decode(qkv[tokens:], *past, cache.start + places + 1, rows, found[tokens:])
            return found

        return attend
