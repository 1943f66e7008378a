"""Token ids -> who sees whom, at which positions, and where the pictures' vectors go.

Tokens before <sop>, the context, see one another in both directions; <sop> and what follows see what came before.
Each token has two positions: its place in the context, which stays at the mask token's place from <sop> on, and its
place in the answer, which counts from <sop> and is 0 before. Padding on the left is seen by nobody and not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Starts = int | Sequence[int] | torch.Tensor


@dataclass(frozen=True)
class Marks:
    """The token ids that give a prompt its shape."""

    bos: int
    gmask: int
    mask: int
    pad: int

    @classmethod
    def of(cls, config: Any) -> "Marks":
        """Return those of a model's configuration."""
        return cls(config.bos_token_id, config.gmask_token_id, config.mask_token_id, config.pad_token_id)


def image_starts(pre_image_length: Starts | None, batch: int, device: torch.device) -> torch.Tensor:
    """Return [B], the index of each row's first placeholder; negative where a row has no picture.

    Args:
        pre_image_length: tokens before the picture, padding included: one number, or one for each row.
    """
    if pre_image_length is None:
        pre_image_length = -1
    starts = torch.as_tensor(pre_image_length, dtype=torch.long, device=device).reshape(-1)
    if len(starts) not in (1, batch):
        raise ValueError(f"pre_image_length has {len(starts)} numbers for {batch} rows; give one, or one each.")
    return starts.expand(batch)


def placeholders(starts: torch.Tensor, image_length: int, length: int) -> torch.Tensor:
    """Return [B, length], the number of the vector that each token stands for, or -1 for none."""
    offsets = torch.arange(length, device=starts.device) - starts[:, None]
    inside = (starts[:, None] >= 0) & (offsets >= 0) & (offsets < image_length)
    return offsets.where(inside, -1)


def insert_images(embeddings: torch.Tensor, images: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Replace embeddings [B, T, D] by images [B or 1, L, D] from `starts[b]` on, in a new tensor.

    Raises:
        ValueError: a picture reaches past the end of the prompt.
    """
    batch, length, width = embeddings.shape
    if len(images) not in (1, batch):
        raise ValueError(f"There are {len(images)} pictures for {batch} rows; give one, or one each.")
    if int(starts.max()) + images.shape[1] > length:
        raise ValueError(f"The prompt of {length} tokens has no room for a picture's {images.shape[1]} vectors.")
    places = placeholders(starts, images.shape[1], length)
    images = images.to(embeddings.device, embeddings.dtype).expand(batch, -1, -1)
    chosen = images.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, width))
    return chosen.where((places >= 0)[..., None], embeddings)


def visible_tokens(
    ids: torch.Tensor, attention_mask: torch.Tensor | None, starts: torch.Tensor, image_length: int, pad: int
) -> torch.Tensor:
    """Return [B, S], False for the tokens that nobody may see.

    A mask made of `ids != pad` hides a picture's placeholders too, where they are written with the pad id; they
    are seen all the same. Without a mask, the pads that begin a row are hidden.
    """
    if attention_mask is None:
        attention_mask = (ids != pad).cumsum(dim=-1)
    if attention_mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {list(attention_mask.shape)}; it should be {list(ids.shape)}.")
    return attention_mask.bool() | (placeholders(starts, image_length, ids.shape[1]) >= 0)


def first_index(found: torch.Tensor) -> torch.Tensor:
    """Return [B, 1], where the first True of each row of [B, S] stands; S where there is none."""
    index = found.int().argmax(dim=-1, keepdim=True)
    return index.where(found.any(dim=-1, keepdim=True), found.shape[1])


def context_lengths(ids: torch.Tensor, bos: int) -> torch.Tensor:
    """Return [B, 1], the index of each row's first <sop>.

    Raises:
        ValueError: a row has none.
    """
    lengths = first_index(ids == bos)
    if bool((lengths == ids.shape[1]).any()):
        raise ValueError(
            "A prompt has no <sop>. End each with [gMASK] <sop>, as tokenizer.build_inputs_with_special_tokens does."
        )
    return lengths


def token_positions(ids: torch.Tensor, visible: torch.Tensor | None, marks: Marks) -> torch.Tensor:
    """Return the positions [B, 2, S] of whole sequences ids [B, S]; `visible` [B, S] or None for all."""
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    context = first_index(ids == marks.bos)
    place = first_index((ids == marks.gmask) & (index < context))
    other = first_index((ids == marks.mask) & (index < context))
    place = place.where(place < context, other)
    rest = place.where(place < context, index)  # without a mask token, places are simply counted on
    pads = 0 if visible is None else first_index(visible)
    places = index.where(index < context, rest) - pads
    return torch.stack((places.clamp(min=0), (index - context + 1).clamp(min=0)), dim=1)


def checked_positions(position_ids: torch.Tensor) -> torch.Tensor:
    """Return `position_ids` if they are [B, 2, T]."""
    if position_ids.ndim != 3 or position_ids.shape[1] != 2:
        raise ValueError(f"position_ids have shape {list(position_ids.shape)}; they should be [B, 2, T].")
    return position_ids


def position_lines(ids: torch.Tensor, visible: torch.Tensor, marks: Marks) -> torch.Tensor:
    """Return [B, 2, 2], offset and slope of the positions after prompts ids [B, T], visible [B, T].

    That of the token with index i >= T is offset + i * slope.
    """
    longer, seen = F.pad(ids, (0, 2), value=marks.pad), F.pad(visible, (0, 2), value=True)
    first, second = token_positions(longer, seen, marks)[..., -2:].unbind(-1)
    slope = second - first
    return torch.stack((first - ids.shape[1] * slope, slope), dim=-1)


def prefix_mask(context: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return [B, 1, S, S], True where a row sees a column, for context lengths [B, 1] and visible tokens [B, S]."""
    index = torch.arange(visible.shape[1], device=visible.device)
    seen = (index <= index[:, None]) | (index < context[..., None])
    # A row that sees nothing, as a pad may, would come out as NaN and spoil the values of others.
    return (seen & visible[:, None] | (index == index[:, None]))[:, None]


def answer_mask(visible: torch.Tensor, count: int) -> torch.Tensor:
    """Return [B, 1, count, S] for the last `count` of tokens visible [B, S], all of them after <sop>."""
    length = visible.shape[1]
    index = torch.arange(length, device=visible.device)
    seen = index <= index[length - count :, None]
    return (seen & visible[:, None])[:, None]
