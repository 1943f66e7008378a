"""The keys and values that earlier tokens left behind, one pair of tensors a layer, one row for each answer."""

from dataclasses import dataclass

import torch


@dataclass
class KVCache:
    """Room for a fixed number of tokens in each row, filled from the left.

    Attributes:
        keys, values: one tensor [R, H, capacity, head_dim] a layer.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    @classmethod
    def allocate(
        cls,
        layers: int,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> "KVCache":
        """Make room for `shape` = [R, H, capacity, head_dim] in each layer.

        It begins as zeros: what a mask hides is multiplied by nothing, and must be a number for that.
        """
        pairs = [torch.zeros(2, *shape, device=device, dtype=dtype) for _ in range(layers)]
        return cls([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def store_row(self, layer: int, row: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store [1, H, T, head_dim] in a row, from place `start` on."""
        end = start + key.shape[2]
        self.keys[layer][row : row + 1, :, start:end] = key
        self.values[layer][row : row + 1, :, start:end] = value

    def store_column(
        self, layer: int, rows: torch.Tensor, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Store one token [B, H, 1, head_dim] in each of `rows` [B], at its place in `places` [B]."""
        self.keys[layer][rows, :, places] = key[:, :, 0]
        self.values[layer][rows, :, places] = value[:, :, 0]

    def first_rows(self, layer: int, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values [count, H, length, head_dim] of the first rows."""
        return self.keys[layer][:count, :, :length], self.values[layer][:count, :, :length]

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` places of a row to another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear_row(self, row: int) -> None:
        """Put zeros where a row has what are no numbers."""
        for tensor in (*self.keys, *self.values):
            tensor[row] = 0
