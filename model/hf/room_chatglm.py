"""One token more in each row as one CUDA graph: the host starts a step with a few calls instead of 1,300.

A graph holds for tensors that stay where they are. So the keys and values of all layers lie in one `Room`, together
with what a step reads; its graphs read them up to a multiple of `STRIDE` places and mask those that are not filled.
Recording takes as long as some steps do, hence a graph is used for longer than it would have to be.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..engine.recording import record

STRIDE = 256  # places
LEAST_FREE = STRIDE // 2  # places that are free at first, so that the next room or graph is not wanted soon


def padded(length: int) -> int:
    """Return the next multiple of STRIDE."""
    return -(-length // STRIDE) * STRIDE


def with_free(length: int) -> int:
    """Return a multiple of STRIDE that leaves some places free."""
    return padded(length + LEAST_FREE)


class Traffic:
    """Counts the generations on a device. One that records has to be alone: torch draws no random numbers meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Count one more; wait for who is recording."""
        with self.lock:
            self.count += 1
        try:
            yield
        finally:
            with self.lock:
                self.count -= 1

    @contextmanager
    def stopped(self) -> Iterator[bool]:
        """Let nobody begin; give whether the caller, itself counted, is alone."""
        with self.lock:
            yield self.count == 1


@functools.cache
def traffic(device: torch.device) -> Traffic:
    """Return the generations of this process on a device."""
    return Traffic()


class Filled:
    """A room's places as the layers see a cache: the new token goes to the place that a tensor names."""

    def __init__(self, states: torch.Tensor, place: torch.Tensor) -> None:
        self.states, self.place = states, place  # [2 * layers, B, H, S, head_dim], [1]

    def get_seq_length(self, number: int = 0) -> int:
        """Return S - 1: with the new token, all places are seen as far as the mask lets them."""
        return self.states.shape[-2] - 1

    def update(self, keys: torch.Tensor, values: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values [B, H, 1, head_dim] of layer `number` in their place; return all [B, H, S, head_dim]."""
        pair = self.states[2 * number], self.states[2 * number + 1]
        for states, new in zip(pair, (keys, values), strict=True):
            states.index_copy_(2, self.place, new.to(states.dtype))
        return pair


class Room:
    """What one step reads and writes, and the graphs that were recorded of it. One generation uses it at a time."""

    def __init__(self, like: torch.Tensor, layers: int, places: int, weights: Any) -> None:
        """Make room for the keys and values of so many layers, each `like` [B, H, T, head_dim], and `places` tokens."""
        rows, heads, _, head_dim = like.shape
        self.rows, self.places, self.weights = rows, places, weights
        # Tensors that are made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.device(like.device):
            self.states = torch.zeros(2 * layers, rows, heads, places, head_dim, dtype=like.dtype)
            self.visible = torch.ones(rows, 1, 1, places, dtype=torch.bool)
            self.index = torch.arange(places)
            self.ids = torch.zeros(rows, 1, dtype=torch.long)
            self.positions = torch.zeros(rows, 2, 1, dtype=torch.long)
            self.place = torch.zeros(1, dtype=torch.long)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}  # places seen -> graph, its logits

    def fill(self, keys_and_values: list[torch.Tensor], attention_mask: torch.Tensor | None) -> None:
        """Copy what a cache holds, [B, H, T, head_dim] each, and what may be seen of it and of the next token."""
        length = keys_and_values[0].shape[-2]
        torch._foreach_copy_([*self.states[..., :length, :].unbind(0)], keys_and_values)
        self.visible.fill_(True)
        if attention_mask is not None:
            self.visible[:, 0, 0, : attention_mask.shape[1]] = attention_mask

    def step(self, model: Any, ids: torch.Tensor, position_ids: torch.Tensor, stored: int) -> torch.Tensor:
        """Return the logits [B, 1, V] of tokens [B, 1] at positions [B, 2, 1], which follow `stored` others."""
        self.ids.copy_(ids)
        self.positions.copy_(position_ids)
        self.place.fill_(stored)
        length = self.seen(stored + 1)
        if length not in self.graphs and not self._record(model, length):
            return self.compute(model, length)
        graph, logits = self.graphs[length]
        graph.replay()
        return logits.clone()  # the next step writes over them

    def seen(self, filled: int) -> int:
        """Return how many places to look at when so many are filled: those of a graph, unless it reads far too many."""
        fitting = [length for length in self.graphs if filled <= length <= 2 * padded(filled)]
        return min(fitting, default=min(with_free(filled), self.places))

    def compute(self, model: Any, length: int) -> torch.Tensor:
        """Compute a step that sees `length` places at most; doing it again changes nothing."""
        mask = (self.index[:length] <= self.place) & self.visible[..., :length]  # [B, 1, 1, length]
        cache = Filled(self.states[..., :length, :], self.place)
        embedded = model.transformer.word_embeddings(self.ids)
        states = model.transformer(
            inputs_embeds=embedded, position_ids=self.positions, mask=mask, past_key_values=cache
        ).last_hidden_state
        return model.lm_head(states)  # type: ignore[no-any-return]

    def _record(self, model: Any, length: int) -> bool:
        """Record a step, if this is a GPU and nobody else generates on it now; return whether it was done."""
        if not self.states.is_cuda:
            return False
        with torch.cuda.device(self.states.device), traffic(self.states.device).stopped() as is_alone:
            if not is_alone:
                return False
            pool = next((graph.pool() for graph, _ in self.graphs.values()), None)
            self.graphs[length] = record(lambda: self.compute(model, length), pool)
        return True
