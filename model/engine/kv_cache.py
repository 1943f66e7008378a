"""What each row of a batch has behind it, on the device: keys and values, how many, and the angles of its positions."""

from collections.abc import Sequence

import torch

from ..kernels.torch_ops import positions_2d


class KVCache:
    """Room for a fixed number of tokens in each row, filled from the left.

    It begins as zeros: what a mask hides is multiplied by nothing, and must be a number for that.

    Args:
        shape: [R, H, room, head_dim].
        start: places P at the beginning of each row that a prefix takes before the row's tokens.

    Attributes:
        layers: [layers, 2, R, H, P + room, head_dim], keys and values.
        lengths: int64 [R], places filled in each row; -1 where it is not in use.
        angles: [R, 2, P + room, head_dim], cosines and sines of each place, see `torch_ops.rotate`.
    """

    def __init__(
        self,
        layers: int,
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        start: int = 0,
    ) -> None:
        rows, num_heads, room, head_dim = shape
        self.start = start
        self.layers = torch.zeros(layers, 2, rows, num_heads, start + room, head_dim, device=device, dtype=dtype)
        self.lengths = torch.full((rows,), -1, device=device)
        self.angles = torch.zeros(rows, 2, start + room, head_dim, device=device, dtype=dtype)
        self.pairs = [(pair[0], pair[1]) for pair in self.layers]

    @property
    def cos(self) -> torch.Tensor:
        return self.angles[:, 0]

    @property
    def sin(self) -> torch.Tensor:
        return self.angles[:, 1]

    @property
    def rows(self) -> int:
        return self.layers.shape[2]

    @property
    def room(self) -> int:
        """How many tokens a row can have."""
        return self.layers.shape[4] - self.start

    def grown(self, rows: int, room: int) -> "KVCache":
        """Return a larger cache with what this one has."""
        count, _, _, num_heads, _, head_dim = self.layers.shape
        larger = KVCache(count, (rows, num_heads, room, head_dim), self.layers.device, self.layers.dtype, self.start)
        places = self.start + self.room
        larger.layers[:, :, : self.rows, :, :places] = self.layers
        larger.lengths[: self.rows] = self.lengths
        larger.angles[: self.rows, :, :places] = self.angles
        return larger

    def write_prefix(self, rows: slice, prefix: Sequence[torch.Tensor]) -> None:
        """Let rows begin with keys and values [2, H, P, head_dim] for each layer, which have no positions."""
        self.layers[:, :, rows, :, : self.start] = torch.stack(list(prefix))[:, :, None]

    def set_positions(self, rows: torch.Tensor, contexts: torch.Tensor, table: torch.Tensor) -> None:
        """Prepare rows for prompts: their positions are those of `positions_2d`.

        Args:
            rows: int64 [n].
            contexts: int64 [n], tokens of each prompt's context.
            table: cosines and sines [2, positions, head_dim / 2] of half a head.
        """
        positions = positions_2d(torch.arange(self.room, device=rows.device), contexts[:, None])  # [n, 2, room]
        angles = table[:, positions.transpose(1, 2)].flatten(-2)  # [2, n, room, head_dim]
        self.angles[rows, :, self.start :] = angles.transpose(0, 1)

    def set_lengths(self, rows: torch.Tensor, contexts: torch.Tensor) -> None:
        """Note that rows now have prompts with contexts of these lengths."""
        self.lengths[rows] = self.start + contexts + 1

    def free_slot(self, row: int) -> None:
        """Take a row out of use."""
        # A slice is filled; a place by itself would be copied to from the CPU, which waits for the device.
        self.lengths[row : row + 1] = -1

    def move_slot(self, source: int, target: int, length: int) -> None:
        """Put a row, of `length` tokens, in the place of another; its own is then free."""
        places = self.start + length
        self.layers[:, :, target, :, :places] = self.layers[:, :, source, :, :places]
        for tensor in (self.lengths, self.angles):
            tensor[target] = tensor[source]
        self.free_slot(source)

    def zero_slot(self, row: int) -> None:
        """Put zeros where a row has what are no numbers."""
        self.layers[:, :, row] = 0
