"""Linear layers as the decoder calls them: product, bias, activation and residual in one."""

from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from . import dense, int4, int8
from .choice import has_triton
from .ending import Ending, finish


class Linear(Protocol):
    """act(x @ W.T + bias) + alpha * residual, for x [N, I]; act is the tanh-GELU or nothing."""

    def __call__(
        self, x: torch.Tensor, *, gelu: bool = False, residual: torch.Tensor | None = None, alpha: float = 1.0
    ) -> torch.Tensor: ...


class Called:
    """Any function that maps [N, I] to [N, O], a tensor of its own with the bias in it."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(
        self, x: torch.Tensor, *, gelu: bool = False, residual: torch.Tensor | None = None, alpha: float = 1.0
    ) -> torch.Tensor:
        return finish(self.function(x), Ending(None, gelu, residual, alpha), None)


def bind_dense(module: nn.Module) -> Linear:
    """Return how to call a layer with a whole weight [O, I] and perhaps a bias."""
    parts: Any = {"weight": module.weight, "bias": module.bias}
    if has_triton(parts["weight"].device):
        return partial(dense.multiply, **parts)
    return Called(dense.Turned(**parts))


def bind_rounded(
    numbers: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor | None, bias: torch.Tensor | None
) -> Linear:
    """Return how to call a layer with a weight of 8 bits, or with pairs of 4 bits in groups."""
    if groups is None:
        return partial(int8.multiply, numbers=numbers, scale=scale, bias=bias)
    return partial(int4.multiply, pairs=numbers, scale=scale, groups=groups, bias=bias)
