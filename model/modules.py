"""Walking a network's modules before every answer, hence quickly: torch's own walk takes three times as long."""

from collections.abc import Iterator

from torch import nn


def every_module(*roots: nn.Module) -> Iterator[nn.Module]:
    """Yield the roots and all modules within, in no order; one that is used twice comes twice."""
    waiting: list[nn.Module | None] = [*roots]
    while waiting:
        module = waiting.pop()
        if module is not None:
            yield module
            waiting += module._modules.values()


def has_hooks(*roots: nn.Module) -> bool:
    """Whether a torch hook on one of the modules wants to see or change the forward pass."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in every_module(*roots))
