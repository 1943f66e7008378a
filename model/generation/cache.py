"""The keys and values that earlier tokens left behind, one pair of tensors a layer."""

from dataclasses import dataclass

import torch


@dataclass
class KVCache:
    """Room for a fixed number of tokens, filled from the left.

    Attributes:
        keys, values: one tensor [B, H, capacity, head_dim] a layer.
        length: tokens stored so far, the same in every layer.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    length: int = 0

    @classmethod
    def allocate(
        cls,
        layers: int,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> "KVCache":
        """Make room for `shape` = [B, H, capacity, head_dim] in each layer."""
        pairs = [torch.empty(2, *shape, device=device, dtype=dtype) for _ in range(layers)]
        return cls([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [B, H, T, head_dim] after what is there; return all stored, [B, H, length + T, head_dim].

        `length` grows only when the caller has stored every layer.
        """
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]
