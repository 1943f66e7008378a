"""Decode on a GPU with kernels that read the length of rows there, so that one CUDA graph serves any length."""

from collections.abc import Sequence

import torch

from ..kernels.triton.prompt_attention import attend_contexts
from ..kernels.triton.token_attention import attend_tokens
from .cuda_graph import LENGTHS, PROMPTS, Graphs, fits_together, padded
from .decoder import Prefill, begin_rows, contexts_of, make_cache, put_prefix
from .layers import Attend, Layers
from .prompts import Prompts
from .sequence import Request


class GraphDecoder:
    """Runs the layers with a KV cache of its own, which has no room until it grows."""

    is_static = True

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.graphs = Graphs()
        self.device, self.dtype = layers.network.device, layers.network.dtype
        self.cache = make_cache(layers, 0, 0)
        self.prompts = Prompts(layers.network, layers.weights.width)
        self.read_logits = torch.zeros(PROMPTS[-1], layers.network.vocabulary, device=self.device)

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts; short ones are read at once."""
        contexts = contexts_of(requests)
        if not fits_together(contexts):
            return (yield from self._read_long(first, requests, contexts))
        count, length = padded(len(requests), PROMPTS), padded(max(contexts), LENGTHS)
        put_prefix(self.layers, self.cache, first, len(requests))
        self.prompts.place(first, requests, count, length, self.cache.start)
        self.graphs.run((count, length), lambda: self._read(count, length))
        return self.read_logits[: len(requests)]

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        count = len(tokens)

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            angles = self.cache.cos, self.cache.sin
            places = self.cache.start + longest
            return attend_tokens(qkv, angles, self.cache.pairs[layer], self.cache.lengths, places)

        logits = self.layers.decode(tokens, attend)
        self.cache.lengths[:count] += self.cache.lengths[:count] >= 0
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.cache.move_row(source, target, length)

    def free(self, row: int) -> None:
        """Take a row out of use: a graph computes more rows than are, which must not count."""
        self.cache.free_row(row)

    def clear(self, row: int) -> None:
        """Nothing to do: the kernels read no further than a row goes."""

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows of so many tokens."""
        self.graphs.forget()
        self.cache = self.cache.grown(rows, room) if self.cache.rows else make_cache(self.layers, rows, room)

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        return [self.cache.lengths]

    def _read(self, count: int, length: int) -> None:
        """Read prompts from their places, and leave the logits in theirs."""
        placed = self.prompts.placed(count, length)
        self.cache.begin_rows(placed.rows, placed.contexts, self.layers.angles)
        attend = self._attend_prompts(placed.rows, placed.filled, length)
        x = self.layers.run(self.prompts.embed(placed), attend)
        self.read_logits[:count] = self.layers.logits(x[-count:])
        self.cache.fill_rows(placed.rows, placed.contexts)

    def _read_long(self, first: int, requests: Sequence[Request], contexts: list[int]) -> Prefill:
        """Read prompts layer by layer."""
        rows, lengths = begin_rows(self.layers, self.cache, first, contexts)
        longest, count = max(contexts), len(requests)
        x = torch.zeros(count * (longest + 1), self.layers.weights.width, device=self.device, dtype=self.dtype)
        for number, prompt in enumerate(self.layers.embed(requests)):
            x[number * longest : number * longest + len(prompt) - 1] = prompt[:-1]
            x[count * longest + number] = prompt[-1]
        attend = self._attend_prompts(rows, self.cache.start + lengths, longest)
        for x in self.layers.walk(x, attend):  # noqa: B007, B020  (each layer's x is the next one's)
            yield
        self.cache.fill_rows(rows, lengths)
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
            attend_contexts(qkv[:tokens], *past, rows, cache.start, found[:tokens])
            attend_tokens(qkv[tokens:], *past, cache.start + places + 1, rows, found[tokens:])
            return found

        return attend
