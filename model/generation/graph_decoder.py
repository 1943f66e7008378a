"""Decoding on a GPU: kernels that ask the device how long rows are, so that a CUDA graph holds for any length."""

from collections.abc import Sequence

import torch

from ..kernels.device.prompt_attention import attend_contexts
from ..kernels.device.token_attention import attend_tokens
from .attention import Attend
from .decoder import Prefill, begin_rows, make_cache
from .graphs import Graphs
from .layers import Layers
from .network import to_device
from .request import Request
from .sizes import LENGTHS, MOST_TOGETHER, PROMPTS, fits_together, padded


class GraphDecoder:
    """Runs the layers with a KV cache of its own, which has no room until it grows."""

    is_static = True

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.graphs = Graphs()
        self.device = layers.network.device
        self.cache = make_cache(layers, 0, 0)
        self.index = torch.zeros(0, dtype=torch.long, device=self.device)
        self.prompt_rows = torch.zeros(PROMPTS[-1], dtype=torch.long, device=self.device)
        self.prompt_lengths = torch.zeros_like(self.prompt_rows)
        self.embedded = torch.zeros(0)
        self.read_logits = torch.zeros(0)

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts; short ones are read at once."""
        contexts = begin_rows(self.layers, self.cache, first, requests)
        if fits_together(contexts):
            count, length = padded(len(requests), PROMPTS), padded(max(contexts), LENGTHS)
            self._place(first, requests, contexts, count, length)
            self.graphs.run((count, length), lambda: self._read(count, length))
            logits = self.read_logits[: len(requests)]
        else:
            logits = yield from self._read_long(first, requests, contexts)
        self.cache.fill_rows(first, contexts)
        return logits

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
        self.index = torch.arange(rows, device=self.device)
        if not self.embedded.numel():
            shape = (MOST_TOGETHER + PROMPTS[-1], self.layers.weights.width)
            self.embedded = torch.zeros(shape, device=self.device, dtype=self.layers.network.dtype)
            self.read_logits = torch.zeros(PROMPTS[-1], self.layers.network.vocabulary, device=self.device)

    def counters(self) -> list[torch.Tensor]:
        """Return what `decode` counts on the device."""
        return [self.cache.lengths]

    def _place(self, first: int, requests: Sequence[Request], contexts: list[int], count: int, length: int) -> None:
        """Put the prompts, and what tells where they end, where the graph looks for them."""
        self._lay(requests, self.embedded, count, length)
        self.prompt_rows[: len(requests)] = first + self.index[: len(requests)]
        filled = [self.cache.start + context for context in contexts]
        self.prompt_lengths[:count] = to_device(filled + [-1] * (count - len(filled)), self.device)

    def _lay(self, requests: Sequence[Request], x: torch.Tensor, count: int, length: int) -> None:
        """Put the embedded prompts into x [N, D]: `count` contexts of `length` places each, then the <sop> of each."""
        for number, prompt in enumerate(self.layers.embed(requests)):
            x[number * length : number * length + len(prompt) - 1] = prompt[:-1]
            x[count * length + number] = prompt[-1]

    def _read(self, count: int, length: int) -> None:
        """Read prompts from their places, and leave the logits in theirs."""
        x = self.embedded[: count * length + count]
        attend = self._attend_prompts(self.prompt_rows[:count], self.prompt_lengths[:count], length)
        self.read_logits[:count] = self.layers.logits(self.layers.run(x, attend)[-count:])

    def _read_long(self, first: int, requests: Sequence[Request], contexts: list[int]) -> Prefill:
        """Read prompts layer by layer."""
        longest = max(contexts)
        x = self.embedded.new_zeros(len(requests) * (longest + 1), self.layers.weights.width)
        self._lay(requests, x, len(requests), longest)
        rows = first + self.index[: len(requests)]
        lengths = self.cache.start + to_device(contexts, self.device)
        attend = self._attend_prompts(rows, lengths, longest)
        for x in self.layers.walk(x, attend):  # noqa: B007, B020  (each layer's x is the next one's)
            yield
        return self.layers.logits(x[-len(requests) :])

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
