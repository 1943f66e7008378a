"""KV caches with per-slot lengths and rotary tables, on the device: `KVCache` in one tensor, and its base class."""

from collections.abc import Sequence
from typing import Self

import torch

from ..kernels.torch_ops import positions_2d


class CacheSlots:
    """Lengths and rotary tables of the slots of a KV cache, each filled from position 0 on. Subclasses store the KV.

    Args:
        slots: number of slots.
        capacity: maximum number of tokens of a slot, without the prefix.
        head_dim: width of a head.
        prefix_length: P, positions at the start of each slot that hold a P-tuning prefix, before the slot's own tokens.

    Attributes:
        lengths: int64 [slots], filled positions of each slot, prefix included; -1 if the slot is free.
        cos_sin: [slots, 2, P + capacity, head_dim], cosines and sines of each position, see `torch_ops.apply_rotary`.
    """

    def __init__(
        self, slots: int, capacity: int, head_dim: int, device: torch.device, dtype: torch.dtype, prefix_length: int
    ) -> None:
        self.prefix_length = prefix_length
        self.lengths = torch.full((slots,), -1, device=device)
        self.cos_sin = torch.zeros(slots, 2, prefix_length + capacity, head_dim, device=device, dtype=dtype)

    @property
    def cos(self) -> torch.Tensor:
        return self.cos_sin[:, 0]

    @property
    def sin(self) -> torch.Tensor:
        return self.cos_sin[:, 1]

    @property
    def num_slots(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Maximum number of tokens of a slot, without the prefix."""
        return self.cos_sin.shape[2] - self.prefix_length

    def grown(self, slots: int, capacity: int) -> Self:
        """Return a cache of more slots or a larger capacity with the contents of this one."""
        raise NotImplementedError

    def write_prefix(self, slots: range, prefix: Sequence[torch.Tensor]) -> None:
        """Write a prefix, for each layer keys and values [2, H, P, head_dim] without rotary positions, into slots."""
        raise NotImplementedError

    def set_positions(self, slots: torch.Tensor, contexts: torch.Tensor, table: torch.Tensor) -> None:
        """Write the rotary tables of slots for new prompts, at the positions that `positions_2d` returns.

        Args:
            slots: int64 [n].
            contexts: int64 [n], context length of each prompt.
            table: cosines and sines [2, positions, head_dim / 2]; each half of a head uses one position id.
        """
        positions = positions_2d(
            torch.arange(self.capacity, device=slots.device), contexts[:, None]
        )  # [n, 2, capacity]
        cos_sin = table[:, positions.transpose(1, 2)].flatten(-2)  # [2, n, capacity, head_dim]
        self.cos_sin[slots, :, self.prefix_length :] = cos_sin.transpose(0, 1)

    def set_lengths(self, slots: torch.Tensor, contexts: torch.Tensor) -> None:
        """Set the lengths of slots after a prefill of prompts with these context lengths, int64 [n]."""
        self.lengths[slots] = self.prefix_length + contexts + 1

    def free_slot(self, slot: int) -> None:
        """Mark a slot as free."""
        # Fills a slice: assigning to a single element would copy from the CPU and synchronize with the device.
        self.lengths[slot : slot + 1] = -1

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Move a sequence of `length` tokens from the slot `source` to `target`, and mark `source` as free."""
        for tensor in (self.lengths, self.cos_sin):
            tensor[target] = tensor[source]
        self.free_slot(source)

    def copy_slots(self, other: "CacheSlots") -> None:
        """Copy the lengths and rotary tables of a smaller cache."""
        self.lengths[: other.num_slots] = other.lengths
        self.cos_sin[: other.num_slots, :, : other.cos_sin.shape[2]] = other.cos_sin


class KVCache(CacheSlots):
    """Keys and values of all slots in one tensor, so that each slot takes the memory of the longest one.

    Initialized with zeros: masked entries get weight 0, and 0 * NaN would still be NaN.

    Args:
        num_layers: layers of the language model.
        shape: [slots, H, capacity, head_dim].
        prefix_length: P, see `CacheSlots`.

    Attributes:
        key_values: [layers, 2, slots, H, P + capacity, head_dim].
        layers: for each layer, views of its keys and values [slots, H, P + capacity, head_dim].
    """

    def __init__(
        self,
        num_layers: int,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        prefix_length: int = 0,
    ) -> None:
        slots, num_heads, capacity, head_dim = shape
        super().__init__(slots, capacity, head_dim, device, dtype, prefix_length)
        length = prefix_length + capacity
        self.key_values = torch.zeros(num_layers, 2, slots, num_heads, length, head_dim, device=device, dtype=dtype)
        self.layers = [(layer[0], layer[1]) for layer in self.key_values]

    def grown(self, slots: int, capacity: int) -> "KVCache":
        """Return a larger cache with a copy of the contents of this one."""
        num_layers, _, _, num_heads, length, head_dim = self.key_values.shape
        shape = slots, num_heads, capacity, head_dim
        larger = KVCache(num_layers, shape, self.key_values.device, self.key_values.dtype, self.prefix_length)
        larger.key_values[:, :, : self.num_slots, :, :length] = self.key_values
        larger.copy_slots(self)
        return larger

    def write_prefix(self, slots: range, prefix: Sequence[torch.Tensor]) -> None:
        """Write a prefix into slots."""
        end = self.prefix_length
        self.key_values[:, :, slots.start : slots.stop, :, :end] = torch.stack(list(prefix))[:, :, None]

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Copy a sequence from one slot to another."""
        end = self.prefix_length + length
        self.key_values[:, :, target, :, :end] = self.key_values[:, :, source, :, :end]
        super().move_slot(source, target, length)

    def zero_slot(self, slot: int) -> None:
        """Zero a slot that contains NaN, so that it cannot reach the next sequence in the slot."""
        self.key_values[:, :, slot] = 0
