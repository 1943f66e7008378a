"""Mappings of lazily loaded tensors, so that a model is never in memory twice."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch

from .errors import CheckpointError

Tensors = Mapping[str, torch.Tensor]
TensorLoader = Callable[[], torch.Tensor]


class LazyTensors(Tensors):
    """A mapping from names to tensors that loads a tensor at each access and does not cache it.

    Args:
        loaders: for each name, a function that loads the tensor.
    """

    def __init__(self, loaders: Mapping[str, TensorLoader]) -> None:
        self.loaders = loaders

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)


def loaders_of(tensors: Tensors) -> dict[str, TensorLoader]:
    """Return the loader of each tensor, for a mapping that changes or renames some of them."""
    return {name: partial(tensors.__getitem__, name) for name in tensors}


@contextmanager
def translate_shape_errors(name: str) -> Iterator[None]:
    """Convert errors of computing the tensor called `name`, which mismatched shapes cause, to CheckpointError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise CheckpointError(
            f"{name} does not match the related tensors and sizes ({reason}). The weights and the "
            "configuration belong to different models. Get both from one source."
        ) from error
