"""The answers of a batch: those that are being written, those whose prompts are read, and steps under way."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .decoder import Prefill
from .request import Request


@dataclass(eq=False)
class Row:
    """An answer that is being written.

    Attributes:
        budget: tokens that it may have.
        drawn: tokens drawn so far, of which the last may not have been read from the device yet.
        read: tokens read so far.
        ended: whether it has left the batch.
    """

    request: Request
    budget: int
    drawn: int = 0
    read: int = 0
    ended: bool = False

    @property
    def length(self) -> int:
        """Tokens in the cache after the next step."""
        return len(self.request.token_ids) + self.drawn


@dataclass
class Opening:
    """Prompts that are being read, layer by layer, into the rows from `first` on.

    Attributes:
        tokens: their tokens together.
    """

    rows: list[Row]
    first: int
    work: Prefill
    tokens: int


@dataclass
class Flight:
    """A step whose tokens are on their way from the device."""

    rows: list[Row]
    tokens: torch.Tensor
    landed: Callable[[], object] = field(default=lambda: None)
