"""A cache for transformers' generation whose tokens are written into room kept ready, not joined to a copy of the rest.

transformers' own copies all keys and values of every layer at each token, into memory of a new size each time.
"""

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 256  # tokens by which a layer grows


class GrowingLayer(DynamicLayer):
    """The keys and values [B, H, T, head_dim] of one layer, which are views of a larger tensor.

    Whatever transformers puts in their place, as for beams, is copied into new room at the next token.
    """

    room: torch.Tensor | None = None  # [2, B, H, T or more, head_dim]
    shown: tuple[torch.Tensor, ...] = ()  # the views given out last

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, H, N, head_dim]; return all of them."""
        if torch.is_grad_enabled():  # what is written over cannot be gone back through
            joined: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        stored = self.get_seq_length()
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        length = stored + key_states.shape[-2]
        room = self._room_for(length, stored, key_states)
        room[0, :, :, stored:length], room[1, :, :, stored:length] = key_states, value_states
        self.move(room, room[..., :length, :].unbind(0))
        return self.keys, self.values

    def move(self, room: torch.Tensor | None, shown: tuple[torch.Tensor, ...]) -> None:
        """Let keys and values be `shown`, which are views of the room, or have none."""
        self.room, self.shown = room, shown
        self.keys, self.values = shown

    def _room_for(self, length: int, stored: int, states: torch.Tensor) -> torch.Tensor:
        """Return the room, which has places for `length` tokens and holds the `stored` ones."""
        is_own = bool(self.shown) and self.keys is self.shown[0] and self.values is self.shown[1]
        if self.room is not None and is_own and length <= self.room.shape[-2]:
            return self.room
        batch, heads, _, head_dim = states.shape
        room = states.new_empty(2, batch, heads, length + ROOM, head_dim)
        if stored:
            room[0, :, :, :stored], room[1, :, :, :stored] = self.keys, self.values
        return room


def new_cache() -> DynamicCache:
    """Return an empty cache of growing layers, which is for transformers one of its own."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache
