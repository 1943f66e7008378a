"""Tensors by name, each read or computed when it is asked for, so that a model never lies in memory twice."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch

from .errors import CheckpointError

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


@contextmanager
def misfit_explained(name: str) -> Iterator[None]:
    """Turn the error of computing the tensor called `name` from others of odd shapes into an error for a person."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise CheckpointError(
            f"{name} does not fit the tensors and sizes that belong to it ({reason}). The weights and the "
            "configuration belong to different models. Get both from one source."
        ) from error
