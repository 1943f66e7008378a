"""Building a network whose weights take no memory yet, then giving it memory once, where and in the dtype it is wanted.

A network built the ordinary way is drawn at random on the CPU, part of it in float32, and then copied to its device
and dtype: that takes the time, and for a while the memory, of more than the weights that are loaded over it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)
# What draws weights. Where there is no data it would do nothing, after seconds of importing torch's compiler.
DRAWING = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}


class WithoutData(TorchFunctionMode):
    """Makes tensors that are to be filled later without data, and draws nothing."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is torch.empty:
            return function(*args, **{**given, "device": "meta"})
        if getattr(function, "__name__", None) in DRAWING:
            return given["tensor"] if "tensor" in given else args[0]
        return function(*args, **given)


def build_empty(make: Callable[[], M], device: torch.device, dtype: torch.dtype) -> M:
    """Return the network that `make` builds, on `device` and in `dtype`, its parameters still to be loaded.

    No random number is drawn. What the network computes while it is built, it has.
    """
    with WithoutData():
        network = make()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                module.register_parameter(name, with_memory(parameter, device, dtype))
    network.to(device, dtype)
    return network


def with_memory(parameter: nn.Parameter, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """Return a parameter like this one with memory, not yet filled, and with SAT's marks for model parallelism.

    Integers, the weights of few bits, stay what they are.
    """
    kept = dtype if parameter.is_floating_point() else parameter.dtype
    filled = nn.Parameter(torch.empty_like(parameter, device=device, dtype=kept), parameter.requires_grad)
    vars(filled).update(vars(parameter))
    return filled
