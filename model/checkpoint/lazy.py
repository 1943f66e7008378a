"""Tensors by name, each read or computed when it is asked for, so that a model never lies in memory twice."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

Tensors = Mapping[str, torch.Tensor]
Maker = Callable[[], torch.Tensor]


class LazyTensors(Tensors):
    """A mapping whose tensors are made anew at each access and not kept.

    Args:
        makers: what makes the tensor of each name.
    """

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self.makers = makers

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def makers_of(tensors: Tensors) -> dict[str, Maker]:
    """Return what makes each of `tensors`, for a mapping that changes or renames some of them."""
    return {name: partial(tensors.__getitem__, name) for name in tensors}
