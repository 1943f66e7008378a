"""Define what the engine needs of a network: the `Network` protocol, and walks over its modules."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ..kernels.linear import Linear


def list_modules(*roots: nn.Module) -> list[nn.Module]:
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
    """A VisualGLM network. There are two: SAT's, `VisualGLMModel`, and transformers' behind `HfNetwork`."""

    @property
    def transformer(self) -> Any:
        """The layers, by the names that both networks use: word_embeddings, layers, final_layernorm."""
        ...

    @property
    def lm_head(self) -> nn.Module:
        """What makes logits of states."""
        ...

    @property
    def vision_encoder(self) -> nn.Module:
        """What makes embeddings of pixels."""
        ...

    @property
    def num_heads(self) -> int:
        """Attention heads of the language model."""
        ...

    @property
    def qkv_interleaved(self) -> bool:
        """Whether the rows of query_key_value lie head by head, [q k v] of each, not part by part."""
        ...

    @property
    def residual_scale(self) -> float:
        """Factor of the residual branch."""
        ...

    @property
    def prefix(self) -> Sequence[torch.Tensor]:
        """Keys and values [2, H, P, head_dim] for each layer that the tokens of every row see, or nothing."""
        ...

    @property
    def has_foreign_mixins(self) -> bool:
        """Whether a mixin that is not ours wants to see or change the forward pass."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights that are whole."""
        ...

    @property
    def max_sequence_length(self) -> int:
        """The most tokens of a prompt with its answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """How many tokens the logits are of."""
        ...

    @property
    def image_length(self) -> int:
        """L, the vectors that stand for a picture."""
        ...

    @property
    def image_size(self) -> int:
        """S, the side of the square picture in pixels."""
        ...

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        ...

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt [1, T] whose picture, if any, has embeddings [1, L, D]; return [1, T, D]."""
        ...

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens [N]; return [N, D]."""
        ...

    def bind_linear(self, module: nn.Module) -> Linear:
        """Return how to call a linear layer."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the whole model, hooks and all; return logits [B, T, V] and what each layer adds."""
        ...


def prefix_length(network: Network) -> int:
    """Return P, how many keys and values a network's rows begin with."""
    return network.prefix[0].shape[2] if len(network.prefix) else 0


def language_model_modules(network: Network) -> list[nn.Module]:
    """Return the modules whose work the decoder does by itself."""
    return list_modules(network.transformer, network.lm_head)


def has_foreign_hooks(network: Network) -> bool:
    """Whether a mixin that is not ours, or a torch hook on a module, wants to see or change the forward pass."""
    return network.has_foreign_mixins or have_hooks(language_model_modules(network))


def to_device(values: Sequence[int] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Send numbers to the device without waiting until it has done what it is doing."""
    return torch.as_tensor(values).to(device, non_blocking=True)
