"""Vary the pictures of training data at each step, or embed them once while the image part is frozen."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from model.engine.network import Network, to_device
from model.images.embedding_cache import BATCH_BUCKETS, GraphedImageEncoder

from .batches import Batch, replace_images

# Height over width of what is seen, at least and at most.
ASPECT_RATIOS = (3 / 4, 4 / 3)


def augment_selected(batch: Batch, chosen: Sequence[bool], crop: float, flip: bool) -> Batch:
    """Return a batch whose chosen examples see a part of their pictures, the same where they share one.

    A picture that others see as well is shown twice: seen whole, it would be known by its things, whatever is asked.
    """
    if batch.pixels is None or (crop == 1 and not flip):
        return batch
    varies = [image >= 0 and is_chosen for image, is_chosen in zip(batch.image_indices, chosen, strict=True)]
    changed = list(
        dict.fromkeys(image for image, is_varied in zip(batch.image_indices, varies, strict=True) if is_varied)
    )
    if not changed:
        return batch
    moved = {image: len(batch.pixels) + number for number, image in enumerate(changed)}
    pictures = [
        moved[image] if is_varied else image for image, is_varied in zip(batch.image_indices, varies, strict=True)
    ]
    return replace_images(batch, torch.cat((batch.pixels, augment(batch.pixels[changed], crop, flip))), pictures)


def augment(pixels: torch.Tensor, crop: float, flip: bool) -> torch.Tensor:
    """Return pixels [P, 3, S, S] of random parts of the pictures, drawn by torch's own generator.

    Args:
        crop: least share of a side that is seen; 1 for the whole picture.
        flip: whether half of the pictures are mirrored.
    """
    pictures = [random_crop(image, crop) for image in pixels] if crop < 1 else list(pixels)
    if flip:
        pictures = [
            image.flip(-1) if mirrored else image
            for image, mirrored in zip(pictures, draw_flips(len(pixels)), strict=True)
        ]
    return torch.stack(pictures) if crop < 1 or flip else pixels


def draw_flips(count: int) -> list[bool]:
    """Toss so many coins."""
    tossed: list[bool] = (torch.rand(count) < 0.5).tolist()
    return tossed


def random_crop(image: torch.Tensor, least: float) -> torch.Tensor:
    """Return a random part of a picture [3, S, S], enlarged to its size."""
    size = image.shape[-1]
    fraction, shape, down, right = torch.rand(4).tolist()
    fraction = least + (1 - least) * fraction
    aspect = ASPECT_RATIOS[0] * (ASPECT_RATIOS[1] / ASPECT_RATIOS[0]) ** shape
    height, width = (max(1, round(size * min(1.0, fraction * factor))) for factor in (aspect**0.5, aspect**-0.5))
    top, left = int(down * (size - height + 1)), int(right * (size - width + 1))
    part = image[None, :, top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]


class FileEmbeddingCache:
    """Keeps the image embeddings [L, D] of files, in the host's memory, without waiting for a GPU.

    Args:
        network: computes them; its image part must not be trained.
        size: bytes to keep at most; what is beyond is computed each time.
    """

    def __init__(self, network: Network, size: float) -> None:
        self.network = network
        self.encoder = GraphedImageEncoder(network)
        self.bytes_left = size
        self.embeddings: dict[Path, torch.Tensor] = {}

    def embed(self, batch: Batch) -> torch.Tensor | None:
        """Return the embeddings [P, L, D] of a batch's pictures; None where it has none."""
        if not batch.image_paths:
            return None
        known = dict.fromkeys(batch.image_paths)
        known.update((path, self.embeddings[path]) for path in batch.image_paths if path in self.embeddings)
        new = [number for number, path in enumerate(batch.image_paths) if path not in self.embeddings]
        if new and batch.pixels is not None:
            # Chosen on the device: what an index would copy here is not pinned, and sending it waits.
            pixels = to_device(batch.pixels, self.network.device)
            chosen = torch.stack([pixels[batch.decoded.index(number)] for number in new])
            for number, embedding in zip(new, self._compute(chosen), strict=True):
                known[batch.image_paths[number]] = embedding
                self._keep(batch.image_paths[number], embedding)
        device = self.network.device
        return torch.stack([to_device(embedding, device) for embedding in known.values() if embedding is not None])

    def is_cached(self, batch: Batch) -> list[bool]:
        """Return of each example whether its picture needs not be decoded again."""
        return [image >= 0 and batch.image_paths[image] in self.embeddings for image in batch.image_indices]

    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        # Copies, because the encoder writes into the same place again.
        return torch.cat([self.encoder.encode(part).clone() for part in pixels.split(BATCH_BUCKETS[-1])])

    def _keep(self, path: Path, embedding: torch.Tensor) -> None:
        if embedding.nbytes <= self.bytes_left:
            self.bytes_left -= embedding.nbytes
            kept = torch.empty(embedding.shape, dtype=embedding.dtype, pin_memory=embedding.is_cuda)
            self.embeddings[path] = kept.copy_(
                embedding, non_blocking=True
            )  # read again by the GPU alone, in its order
