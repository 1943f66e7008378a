"""When `generate` goes on from graphs, and whose room it uses.

`generate` takes a `Room` for its cache and gives it back in the end; the model keeps one, with its graphs, for the next
generation. All this is for one GPU, its default stream, and modules that `weights_of` knows; the rest runs as written.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .layers_chatglm import GLU, GLMBlock, PrefixEncoder, SelfAttention, stored_length
from .quantization import QuantizedLinear
from .room_chatglm import Room, traffic, with_free

KNOWN = {
    *(GLMBlock, GLU, PrefixEncoder, QuantizedLinear, SelfAttention),
    *(nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList),
}


def has_graphs(device: torch.device) -> bool:
    """Whether graphs can be recorded and replayed on a device as things are.

    Graphs share the memory that cuBLAS keeps for them, so all of them run on one stream.
    """
    if device.type != "cuda" or torch.is_autocast_enabled("cuda"):
        return False
    return bool(torch.cuda.current_stream(device) == torch.cuda.default_stream(device))


def weights_of(model: Any) -> tuple[Any, ...] | None:
    """Return what tells whether a graph still holds: the model's weights and where they lie.

    None where a step cannot be recorded: unknown modules, such as adapters, do what a graph would not repeat, and
    hooks, such as accelerate's, would not be called.
    """
    modules = [*model.transformer.modules(), model.lm_head]
    if any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in modules):
        return None
    if model.training or not {type(module) for module in modules[1:]} <= KNOWN:
        return None
    weights = [weight for module in modules for weight in module._parameters.values() if weight is not None]
    if len({weight.device for weight in weights}) > 1 or not {type(weight) for weight in weights} <= {nn.Parameter}:
        return None
    return tuple((weight.data_ptr(), weight.dtype, weight.shape) for weight in weights)


class Rooms:
    """What a model keeps for its generations: the largest room that is not in use, with its graphs.

    A copy of the model begins without one.
    """

    def __init__(self) -> None:
        self.records = True  # set to False, a model decodes without graphs
        self.spare: Room | None = None
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Rooms, ()

    def take(self, like: torch.Tensor, layers: int, length: int, weights: Any) -> Room:
        """Return a room for keys `like` [B, H, T, head_dim] and at least `length` tokens; its states are zeros."""
        with self.lock:
            room, self.spare = self.spare, None
        if room is None or room.weights != weights or room.rows != len(like) or room.places < length:
            del room  # before the next one needs memory
            return Room(like, layers, with_free(length), weights)
        room.states.zero_()  # what is masked must still be a number
        return room

    def give_back(self, room: Room) -> None:
        """Keep a room that is no longer in use, unless there is a larger one."""
        if room.states.is_cuda:  # another thread's stream may be the next to use it
            torch.cuda.current_stream(room.states.device).synchronize()
        with self.lock:
            if self.spare is None or self.spare.weights != room.weights or self.spare.places <= room.places:
                self.spare = room


class Steps:
    """The steps of one generation: keeps the cache's keys and values in a room, wherever transformers puts them."""

    def __init__(self, model: Any, weights: Any) -> None:
        self.model, self.weights = model, weights
        self.room: Room | None = None
        self.shown: tuple[torch.Tensor, ...] = ()  # the room's filled part, as the cache's layers have it

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the cache goes on without."""

    def logits(
        self, cache: Any, ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the logits [B, 1, V] of one token more in each row, and put it into the cache."""
        stored = stored_length(cache)
        room = self._room_of(cache, stored, attention_mask)
        logits = room.step(self.model, ids, position_ids, stored)
        self._show(cache, room, stored + 1)
        return logits

    def end(self, cache: Any, is_kept: bool) -> None:
        """Give the room back; a cache that is kept takes its keys and values along."""
        if self.room is None:
            return
        for layer in cache.layers if is_kept else ():
            layer.move(None, (layer.keys.clone(), layer.values.clone()))
        self.model.rooms.give_back(self.room)
        self.room, self.shown = None, ()

    def _room_of(self, cache: Any, stored: int, attention_mask: torch.Tensor | None) -> Room:
        """Return the room that holds what the cache does, which may have been changed, as by beams, or be full."""
        found = [states for layer in cache.layers for states in (layer.keys, layer.values)]
        room, like = self.room, found[0]
        is_own = len(found) == len(self.shown) and all(map(lambda a, b: a is b, found, self.shown))
        if room is not None and is_own and stored < room.places:
            return room
        if room is None or room.rows != len(like) or room.places <= stored:
            room = self.model.rooms.take(like, len(cache.layers), stored + 1, self.weights)
        room.fill(found, attention_mask)
        self.room = room
        return room

    def _show(self, cache: Any, room: Room, length: int) -> None:
        self.shown = room.states[..., :length, :].unbind(0)
        for number, layer in enumerate(cache.layers):
            pair = slice(2 * number, 2 * number + 2)
            layer.move(room.states[pair], self.shown[pair])


@contextmanager
def decoding(model: Any, cache: Any, is_kept: bool) -> Iterator[None]:
    """Let a generation go on from graphs where it can.

    Args:
        cache: the generation's own, a new one of growing layers; None where it has another, or none.
        is_kept: it is handed to the caller in the end.
    """
    with traffic(model.device).passing():
        weights = None
        if cache is not None and model.rooms.records and has_graphs(model.device):
            weights = weights_of(model)
        if cache is None or weights is None:
            yield
            return
        steps = cache.steps = Steps(model, weights)
        try:
            yield
        finally:
            cache.steps = None
            steps.end(cache, is_kept)


def later_logits(
    cache: Any, ids: torch.Tensor, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """Return the logits [B, 1, V] of single tokens [B, 1] after a cache in a room; None where there is no such."""
    steps: Steps | None = getattr(cache, "steps", None)
    if steps is None or position_ids is None or ids.shape[1] != 1 or not stored_length(cache):
        return None
    return steps.logits(cache, ids, position_ids, attention_mask)
