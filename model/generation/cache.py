"""What each row of a batch has behind it, on the device: keys and values, how many, and the angles of its positions."""

import torch


def answer_positions(prompt_length: int, length: int, device: torch.device) -> torch.Tensor:
    """Return the positions [2, length] of a prompt that ends with [gMASK] <sop>, and of the answer after it.

    Row 0 counts the context and stays at [gMASK]'s place from <sop> on; row 1 counts from <sop>.
    """
    context = prompt_length - 1
    index = torch.arange(length, device=device)
    return torch.stack((index.clamp(max=context - 1), (index - context + 1).clamp(min=0)))


class KVCache:
    """Room for a fixed number of tokens in each row, filled from the left.

    It begins as zeros: what a mask hides is multiplied by nothing, and must be a number for that.

    Attributes:
        layers: [layers, 2, R, H, room, head_dim], keys and values.
        lengths: int64 [R], tokens in each row; -1 where it is not in use.
        cos, sin: [R, room, head_dim], see `rotate`.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        rows, _, room, head_dim = shape
        self.layers = torch.zeros(layers, 2, *shape, device=device, dtype=dtype)
        self.lengths = torch.full((rows,), -1, device=device)
        self.cos = torch.zeros(rows, room, head_dim, device=device, dtype=dtype)
        self.sin = torch.zeros_like(self.cos)
        self.pairs = [(pair[0], pair[1]) for pair in self.layers]

    @property
    def rows(self) -> int:
        return self.layers.shape[2]

    @property
    def room(self) -> int:
        """How many tokens a row can have."""
        return self.layers.shape[4]

    def grown(self, rows: int, room: int) -> "KVCache":
        """Return a larger cache with what this one has."""
        count, _, _, heads, _, head_dim = self.layers.shape
        larger = KVCache(count, (rows, heads, room, head_dim), self.layers.device, self.layers.dtype)
        larger.layers[:, :, : self.rows, :, : self.room] = self.layers
        larger.lengths[: self.rows] = self.lengths
        larger.cos[: self.rows, : self.room] = self.cos
        larger.sin[: self.rows, : self.room] = self.sin
        return larger

    def begin_row(self, row: int, angles: torch.Tensor) -> None:
        """Prepare a row for tokens of `angles` [room, 2, head_dim / 2]."""
        sin = angles.sin()
        quarter = angles.shape[-1] // 2
        sin[..., :quarter].neg_()
        self.cos[row] = angles.cos().flatten(1)
        self.sin[row] = sin.flatten(1)

    def fill_rows(self, first: int, contexts: list[int]) -> None:
        """Note that the rows from `first` on now have prompts with contexts of these lengths."""
        self.lengths[first : first + len(contexts)] = torch.tensor(contexts).to(self.lengths.device) + 1

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy a row, of `length` tokens, to another."""
        self.layers[:, :, target, :, :length] = self.layers[:, :, source, :, :length]
        for tensor in (self.lengths, self.cos, self.sin):
            tensor[target] = tensor[source]

    def clear_row(self, row: int) -> None:
        """Put zeros where a row has what are no numbers."""
        self.layers[:, :, row] = 0


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [..., head_dim], whose halves have each their own angles.

    Numbers i and i + head_dim / 4 of a half turn together. In `sin`, the first of each two is negative.
    """
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * cos, swapped, sin)
