"""What the engine needs of a ChatGLM network."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ..kernels.linear import Linear


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


class Network(Protocol):
    """A ChatGLM network; VisualGLMModel has all this.

    Attributes:
        image_length: vectors that stand for a picture.
        qkv_by_head: whether the rows of query_key_value lie head by head, [q k v] of each, not part by part.
        prefix: keys and values [2, H, P, head_dim] for each layer that the tokens of every row see, or nothing.
        has_foreign_mixins: whether a mixin that is not ours wants to see or change the forward pass.
    """

    transformer: Any  # word_embeddings, layers, final_layernorm
    heads: int
    lm_head: nn.Module
    qkv_by_head: bool
    residual_scale: float
    prefix: Sequence[torch.Tensor]
    has_foreign_mixins: bool
    device: torch.device
    dtype: torch.dtype
    max_sequence_length: int
    image_length: int
    vocabulary: int

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor: ...

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor: ...

    def bind_linear(self, module: nn.Module) -> Linear: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def prefix_length(network: Network) -> int:
    """Return P, how many keys and values a network's rows begin with."""
    return network.prefix[0].shape[2] if len(network.prefix) else 0


def decoded_modules(network: Network) -> list[nn.Module]:
    """Return the modules whose work the decoder does by itself."""
    return every_module(network.transformer, network.lm_head)


def has_foreign_hooks(network: Network) -> bool:
    """Whether a mixin that is not ours, or a torch hook on a module, wants to see or change the forward pass."""
    return network.has_foreign_mixins or have_hooks(decoded_modules(network))


def to_device(values: Sequence[int] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Send numbers to the device without waiting until it has done what it is doing."""
    return torch.as_tensor(values).to(device, non_blocking=True)
