"""Walking a network's modules before every answer, hence quickly: torch's own walk takes three times as long."""

from collections.abc import Iterable

from torch import nn


def every_module(*roots: nn.Module) -> list[nn.Module]:
    """Return the roots and all modules within, parents first; one that is used twice comes twice."""
    modules = [*roots]
    for module in modules:  # of which there are more meanwhile
        if module._modules:
            modules += [child for child in module._modules.values() if child is not None]
    return modules


def have_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether a torch hook on one of these wants to see or change the forward pass."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
