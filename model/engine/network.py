"""The engine's interface to a network: the `Network` protocol, and helpers that walk its modules."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ..kernels.linear import Linear

# Before CUDA copies more bytes than this from pageable memory, it waits for the queued work of the stream.
MAX_STAGED_BYTES = 2**16


def list_modules(*roots: nn.Module) -> list[nn.Module]:
    """Return the roots and all their submodules, parents first; a module that is used twice is listed twice."""
    modules = [*roots]
    for module in modules:  # the list grows during the iteration
        if module._modules:
            modules += [child for child in module._modules.values() if child is not None]
    return modules


def have_hooks(modules: Iterable[nn.Module]) -> bool:
    """Return whether any of the modules has a forward hook or a forward pre-hook of torch."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


class Network(Protocol):
    """A VisualGLM network: SAT's `VisualGLMModel`, or the transformers model wrapped by `HfNetwork`."""

    @property
    def transformer(self) -> Any:
        """The language model, with the names that both networks use: word_embeddings, layers, final_layernorm."""
        ...

    @property
    def lm_head(self) -> nn.Module:
        """The language model head, which maps hidden states to logits."""
        ...

    @property
    def vision_encoder(self) -> nn.Module:
        """The vision encoder, which maps pixels to image embeddings."""
        ...

    @property
    def num_heads(self) -> int:
        """H, attention heads of the language model."""
        ...

    @property
    def qkv_interleaved(self) -> bool:
        """Whether the rows of query_key_value are interleaved by head: [q k v] of each head.

        Otherwise they are split: all of q, then k, then v.
        """
        ...

    @property
    def residual_scale(self) -> float:
        """Factor of the skip connections: a sublayer f returns f(m) + residual_scale * m."""
        ...

    @property
    def prefix(self) -> Sequence[torch.Tensor]:
        """Keys and values [2, H, P, head_dim] of a P-tuning prefix for each layer; empty without a prefix."""
        ...

    @property
    def has_foreign_mixins(self) -> bool:
        """Whether a mixin from outside this project may read or change the forward pass."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights that are not quantized."""
        ...

    @property
    def max_sequence_length(self) -> int:
        """Maximum number of tokens of a prompt and its answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, the number of logits."""
        ...

    @property
    def image_length(self) -> int:
        """L, the number of embeddings of an image."""
        ...

    @property
    def image_size(self) -> int:
        """S, height and width of the square input image in pixels."""
        ...

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        ...

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt; return [1, T, D].

        Args:
            token_ids: int64 [1, T].
            images: image embeddings [1, L, D], or None.
            image_start: index of the first image token.
        """
        ...

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens [N]; return [N, D]."""
        ...

    def bind_linear(self, module: nn.Module) -> Linear:
        """Return a function that computes a linear layer."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the complete model with its hooks; return logits [B, T, V] and the outputs of each layer."""
        ...


def prefix_length(network: Network) -> int:
    """Return P, the length of the network's P-tuning prefix."""
    return network.prefix[0].shape[2] if len(network.prefix) else 0


def language_model_modules(network: Network) -> list[nn.Module]:
    """Return the modules that the eager and CUDA-graph decoders compute without calling them."""
    return list_modules(network.transformer, network.lm_head)


def has_foreign_hooks(network: Network) -> bool:
    """Return whether a mixin from outside this project, or a torch hook, may read or change the forward pass."""
    return network.has_foreign_mixins or have_hooks(language_model_modules(network))


def to_device(values: Sequence[int] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy numbers to the device without waiting for its queued work; large ones by way of page-locked memory."""
    tensor = torch.as_tensor(values)
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes > MAX_STAGED_BYTES:
        tensor = tensor if tensor.is_pinned() else to_pinned(tensor)
    return tensor.to(device, non_blocking=True)


def to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to page-locked memory with numpy, because torch would divide the copy among all cores."""
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    target, source = (one.detach().reshape(-1).view(torch.uint8).numpy() for one in (pinned, tensor))
    target[:] = source
    return pinned
