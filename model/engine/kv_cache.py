"""Batched KV cache with per-slot lengths and rotary tables, on the device."""

from collections.abc import Sequence

import torch

from ..kernels.torch_ops import positions_2d


class KVCache:
    """Keys and values of a fixed number of slots with a fixed capacity, each filled from position 0 on.

    Initialized with zeros: masked entries get weight 0, and 0 * NaN would still be NaN.

    Args:
        num_layers: layers of the language model.
        shape: [slots, H, capacity, head_dim].
        prefix_length: P, positions at the start of each slot that hold a P-tuning prefix, before the slot's own tokens.

    Attributes:
        key_values: [layers, 2, slots, H, P + capacity, head_dim].
        layers: for each layer, views of its keys and values [slots, H, P + capacity, head_dim].
        lengths: int64 [slots], filled positions of each slot, prefix included; -1 if the slot is free.
        cos_sin: [slots, 2, P + capacity, head_dim], cosines and sines of each position, see `torch_ops.apply_rotary`.
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
        length = prefix_length + capacity
        self.prefix_length = prefix_length
        self.key_values = torch.zeros(num_layers, 2, slots, num_heads, length, head_dim, device=device, dtype=dtype)
        self.lengths = torch.full((slots,), -1, device=device)
        self.cos_sin = torch.zeros(slots, 2, length, head_dim, device=device, dtype=dtype)
        self.layers = [(layer[0], layer[1]) for layer in self.key_values]

    @property
    def cos(self) -> torch.Tensor:
        return self.cos_sin[:, 0]

    @property
    def sin(self) -> torch.Tensor:
        return self.cos_sin[:, 1]

    @property
    def num_slots(self) -> int:
        return self.key_values.shape[2]

    @property
    def capacity(self) -> int:
        """Maximum number of tokens of a slot, without the prefix."""
        return self.key_values.shape[4] - self.prefix_length

    def grown(self, slots: int, capacity: int) -> "KVCache":
        """Return a larger cache with a copy of the contents of this one."""
        num_layers, _, _, num_heads, length, head_dim = self.key_values.shape
        shape = slots, num_heads, capacity, head_dim
        larger = KVCache(num_layers, shape, self.key_values.device, self.key_values.dtype, self.prefix_length)
        larger.key_values[:, :, : self.num_slots, :, :length] = self.key_values
        larger.lengths[: self.num_slots] = self.lengths
        larger.cos_sin[: self.num_slots, :, :length] = self.cos_sin
        return larger

    def write_prefix(self, slots: slice, prefix: Sequence[torch.Tensor]) -> None:
        """Write a prefix, for each layer keys and values [2, H, P, head_dim] without rotary positions, into slots."""
        self.key_values[:, :, slots, :, : self.prefix_length] = torch.stack(list(prefix))[:, :, None]

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
        """Copy `length` tokens from the slot `source` to `target`, and mark `source` as free."""
        end = self.prefix_length + length
        self.key_values[:, :, target, :, :end] = self.key_values[:, :, source, :, :end]
        for tensor in (self.lengths, self.cos_sin):
            tensor[target] = tensor[source]
        self.free_slot(source)

    def zero_slot(self, slot: int) -> None:
        """Zero a slot that contains NaN, so that it cannot reach the next sequence in the slot."""
        self.key_values[:, :, slot] = 0
