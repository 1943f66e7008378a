"""Attention knock-out: text tokens cannot attend to the image in chosen layers.

Sources: Geva et al., https://arxiv.org/abs/2304.14767; for image embeddings Neo et al.,
https://arxiv.org/abs/2410.07149.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SAT_MASK, HF_MASK = 1, 3  # positions of the mask among the arguments of a self-attention module


class Positions:
    """The position of a forward pass in a sequence.

    Attributes:
        image: first and last position of the image, half-open; None without an image.
        start: number of tokens before the forward pass.
    """

    def __init__(self) -> None:
        self.image: tuple[int, int] | None = None
        self.start = 0


def hide_image(mask: torch.Tensor, positions: Positions, count: int) -> torch.Tensor:
    """Return a mask [1, 1, T, S] by which the T tokens of a pass, except the image's own, do not attend to the image.

    Args:
        mask: 1 or True where a token attends to another; its shape can be expanded to [1, 1, T, S].
        count: T.
    """
    hidden = mask.expand(1, 1, count, positions.start + count).clone()
    if positions.image is not None:
        first, last = positions.image
        rows = torch.arange(positions.start, positions.start + count, device=mask.device)
        is_text = (rows < first) | (rows >= last)
        hidden[:, :, is_text, first:last] = 0
    return hidden


@contextmanager
def hide_image_in(attentions: Sequence[nn.Module], positions: Positions) -> Iterator[None]:
    """Context manager: hide the image from the text in self-attention modules, in this thread's forward passes.

    Args:
        positions: kept up to date by the code that runs the forward passes.
    """
    thread, handles = threading.get_ident(), []

    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != thread:
            return None
        index = SAT_MASK if len(inputs) <= HF_MASK else HF_MASK
        mask = inputs[index]
        if mask is None:
            mask = torch.ones(1, 1, dtype=torch.bool, device=inputs[0].device)
        changed = hide_image(mask, positions, inputs[0].shape[1])
        return (*inputs[:index], changed, *inputs[index + 1 :])

    try:
        for module in attentions:
            handles.append(module.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
