"""KV cache of a GPU: each sequence has memory of its own, as much as its prompt and its answer may need."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from .cuda_graph import round_up
from .kv_cache import CacheSlots
from .network import to_device

# Memory is allocated for a multiple of this many positions, so that PyTorch can reuse that of finished sequences.
POSITION_STEP = 32


class LayerKV(NamedTuple):
    """Where the kernels of one layer find keys and values.

    Attributes:
        table: int64 [slots, 2], address of the slot's keys and values [rows, positions, head_dim], and `positions`.
        first_row: row of the layer's first key head; its H rows of keys come first, then H rows of values.
    """

    table: torch.Tensor
    first_row: int


class SequenceKVCache(CacheSlots):
    """Keys and values of each slot in a tensor of its own, which kernels find by its address.

    A captured graph stays valid when sequences come, leave and move, because only the table of addresses changes.

    Args:
        num_layers: layers of the language model.
        shape: [slots, H, capacity, head_dim].
        prefix_length: P, see `CacheSlots`.

    Attributes:
        key_values: for each slot [layers, 2, H, positions, head_dim], not initialized; None for a free slot.
        table: int64 [slots, 2], see `LayerKV`.
        layers: for each layer, its arguments of the kernels.
    """

    def __init__(
        self,
        num_layers: int,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        prefix_length: int = 0,
    ) -> None:
        slots, self.num_heads, capacity, head_dim = shape
        super().__init__(slots, capacity, head_dim, device, dtype, prefix_length)
        self.key_values: list[torch.Tensor | None] = [None] * slots
        self.table = torch.zeros(slots, 2, dtype=torch.long, device=device)
        self.layers = [LayerKV(self.table, 2 * self.num_heads * index) for index in range(num_layers)]

    def grown(self, slots: int, capacity: int) -> "SequenceKVCache":
        """Return a larger cache that shares the keys and values of this one."""
        shape = slots, self.num_heads, capacity, self.cos_sin.shape[3]
        larger = SequenceKVCache(len(self.layers), shape, self.table.device, self.cos_sin.dtype, self.prefix_length)
        larger.copy_slots(self)
        larger.key_values[: self.num_slots] = self.key_values
        larger.table[: self.num_slots] = self.table
        return larger

    def reserve(self, first: int, capacities: Sequence[int]) -> None:
        """Allocate memory for sequences of these numbers of tokens in the slots from `first` on; free later slots.

        Raises:
            RuntimeError: the device is out of memory; the slots stay free.
        """
        self.key_values[first:] = [None] * (self.num_slots - first)
        new = [self._allocate(capacity) for capacity in capacities]
        stop = first + len(new)
        self.key_values[first:stop] = new
        rows = torch.tensor([(one.data_ptr(), one.shape[3]) for one in new])
        self.table[first:stop] = to_device(rows, self.table.device)

    def write_prefix(self, slots: range, prefix: Sequence[torch.Tensor]) -> None:
        """Write a prefix into slots."""
        stacked = torch.stack(list(prefix))
        for key_values in self.occupied(slots):
            key_values[:, :, :, : self.prefix_length] = stacked

    def free_slot(self, slot: int) -> None:
        """Free a slot and its memory, which a decode step that was launched ahead may still use."""
        super().free_slot(slot)
        self.key_values[slot] = None

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Move a sequence from one slot to another, without copying its keys and values."""
        self.key_values[target] = self.key_values[source]
        self.table[target] = self.table[source]
        super().move_slot(source, target, length)

    def occupied(self, slots: Iterable[int]) -> list[torch.Tensor]:
        """Return the keys and values of those slots that are not free."""
        return [one for slot in slots if (one := self.key_values[slot]) is not None]

    def _allocate(self, capacity: int) -> torch.Tensor:
        """Allocate memory for a sequence of `capacity` tokens and the prefix."""
        positions = round_up(self.prefix_length + capacity, POSITION_STEP)
        shape = len(self.layers), 2, self.num_heads, positions, self.cos_sin.shape[3]
        return torch.empty(shape, device=self.table.device, dtype=self.cos_sin.dtype)
