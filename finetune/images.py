"""Vary the pictures of training data at each step, or embed them once while the image part is frozen."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from model.engine.network import Network, to_device
from model.images.embedding_cache import BATCH_BUCKETS, GraphedImageEncoder

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
    tossed: list[bool] = (torch.rand(count) < 0.5).tolist()
    return tossed


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


class PictureCache:
    """Keeps the image embeddings [L, D] of files, in the host's memory, without waiting for a GPU.

    Args:
        network: computes them; its image part must not be trained.
        size: bytes to keep at most; what is beyond is computed each time.
    """

    def __init__(self, network: Network, size: float) -> None:
        self.network = network
        self.encoder = GraphedImageEncoder(network)
        self.left = size
        self.kept: dict[Path, torch.Tensor] = {}

    def embed(self, batch: Batch) -> torch.Tensor | None:
        """Return the embeddings [P, L, D] of a batch's pictures; None where it has none."""
        if not batch.images:
            return None
        known = dict.fromkeys(batch.images)
        known.update((path, self.kept[path]) for path in batch.images if path in self.kept)
        new = [number for number, path in enumerate(batch.images) if path not in self.kept]
        if new and batch.pixels is not None:
            # Chosen on the device: what an index would copy here is not pinned, and sending it waits.
            pixels = to_device(batch.pixels, self.network.device)
            chosen = torch.stack([pixels[batch.decoded.index(number)] for number in new])
            for number, embedding in zip(new, self._compute(chosen), strict=True):
                known[batch.images[number]] = embedding
                self._keep(batch.images[number], embedding)
        device = self.network.device
        return torch.stack([to_device(embedding, device) for embedding in known.values() if embedding is not None])

    def knows(self, batch: Batch) -> list[bool]:
        """Return of each example whether its picture needs not be decoded again."""
        return [picture >= 0 and batch.images[picture] in self.kept for picture in batch.pictures]

    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        # Copies, because the encoder writes into the same place again.
        return torch.cat([self.encoder.encode(part).clone() for part in pixels.split(BATCH_BUCKETS[-1])])

    def _keep(self, path: Path, embedding: torch.Tensor) -> None:
        if embedding.nbytes <= self.left:
            self.left -= embedding.nbytes
            kept = torch.empty(embedding.shape, dtype=embedding.dtype, pin_memory=embedding.is_cuda)
            self.kept[path] = kept.copy_(embedding, non_blocking=True)  # read again by the GPU alone, in its order
