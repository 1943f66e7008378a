"""Pictures seen a little differently each time, so that few of them teach more."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .batches import Batch, show

# Height over width of what is seen, at least and at most.
ASPECTS = (3 / 4, 4 / 3)


def vary_some(batch: Batch, chosen: Sequence[bool], crop: float, flip: bool) -> Batch:
    """Return a batch whose chosen examples see a part of their pictures, the same where they share one.

    A picture that others see as well is shown twice: seen whole, it would be known by its things, whatever is asked.
    """
    if batch.pixels is None or (crop == 1 and not flip):
        return batch
    varies = [picture >= 0 and is_chosen for picture, is_chosen in zip(batch.pictures, chosen, strict=True)]
    changed = list(
        dict.fromkeys(picture for picture, is_varied in zip(batch.pictures, varies, strict=True) if is_varied)
    )
    if not changed:
        return batch
    moved = {picture: len(batch.pixels) + number for number, picture in enumerate(changed)}
    pictures = [
        moved[picture] if is_varied else picture for picture, is_varied in zip(batch.pictures, varies, strict=True)
    ]
    return show(batch, torch.cat((batch.pixels, vary(batch.pixels[changed], crop, flip))), pictures)


def vary(pixels: torch.Tensor, crop: float, flip: bool) -> torch.Tensor:
    """Return pixels [P, 3, S, S] of random parts of the pictures, drawn by torch's own generator.

    Args:
        crop: least share of a side that is seen; 1 for the whole picture.
        flip: whether half of the pictures are mirrored.
    """
    pictures = [cut(picture, crop) for picture in pixels] if crop < 1 else list(pixels)
    if flip:
        pictures = [
            picture.flip(-1) if mirrored else picture
            for picture, mirrored in zip(pictures, coins(len(pixels)), strict=True)
        ]
    return torch.stack(pictures) if crop < 1 or flip else pixels


def coins(count: int) -> list[bool]:
    """Toss so many coins."""
    return (torch.rand(count) < 0.5).tolist()  # type: ignore[no-any-return]


def cut(picture: torch.Tensor, least: float) -> torch.Tensor:
    """Return a random part of a picture [3, S, S], enlarged to its size."""
    size = picture.shape[-1]
    share, shape, down, right = torch.rand(4).tolist()
    share = least + (1 - least) * share
    aspect = ASPECTS[0] * (ASPECTS[1] / ASPECTS[0]) ** shape
    height, width = (max(1, round(size * min(1.0, share * factor))) for factor in (aspect**0.5, aspect**-0.5))
    top, left = int(down * (size - height + 1)), int(right * (size - width + 1))
    part = picture[None, :, top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
