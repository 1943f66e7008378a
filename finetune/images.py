"""Augment the images of training data, or cache their embeddings while the image encoder is frozen."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from model.engine.network import Network, to_device
from model.images.embedding_cache import BATCH_BUCKETS, GraphedImageEncoder

from .batches import Batch, replace_images

ASPECT_RATIOS = (3 / 4, 4 / 3)  # minimum and maximum of height / width of a random crop


def augment_selected(batch: Batch, chosen: Sequence[bool], crop: float, flip: bool) -> Batch:
    """Return a batch with augmented images for some of its examples.

    Chosen examples with the same image get the same augmentation. If other examples have this image, too, the batch
    contains both versions: a chosen example must not get the original image, by whose details the model could memorize
    the example.

    Args:
        batch: the batch.
        chosen: for each example whether its image is augmented.
        crop, flip: see `augment`.
    """
    if batch.pixels is None or (crop == 1 and not flip):
        return batch
    pairs = list(zip(batch.image_indices, chosen, strict=True))
    sources = list(dict.fromkeys(index for index, is_chosen in pairs if index >= 0 and is_chosen))
    if not sources:
        return batch
    augmented = {index: len(batch.pixels) + number for number, index in enumerate(sources)}
    indices = [augmented[index] if index >= 0 and is_chosen else index for index, is_chosen in pairs]
    return replace_images(batch, torch.cat((batch.pixels, augment(batch.pixels[sources], crop, flip))), indices)


def augment(pixels: torch.Tensor, crop: float, flip: bool) -> torch.Tensor:
    """Return randomly augmented images [P, 3, S, S], drawn with torch's global generator.

    Args:
        pixels: images [P, 3, S, S].
        crop: minimum side of the random crops, as a fraction of the image's; 1 disables cropping.
        flip: whether to mirror half of the images.
    """
    images = [random_crop(image, crop) for image in pixels] if crop < 1 else list(pixels)
    if flip:
        flips = draw_flips(len(pixels))
        images = [image.flip(-1) if is_flipped else image for image, is_flipped in zip(images, flips, strict=True)]
    return torch.stack(images) if crop < 1 or flip else pixels


def draw_flips(count: int) -> list[bool]:
    """Return `count` random booleans, each True with probability 1/2."""
    flips: list[bool] = (torch.rand(count) < 0.5).tolist()
    return flips


def random_crop(image: torch.Tensor, minimum: float) -> torch.Tensor:
    """Return a random crop of an image [3, S, S], resized to [3, S, S].

    Args:
        image: the image.
        minimum: minimum side of the crop, as a fraction of S, before its aspect ratio is varied.
    """
    size = image.shape[-1]
    scale, shape, down, right = torch.rand(4).tolist()
    fraction = minimum + (1 - minimum) * scale
    aspect = ASPECT_RATIOS[0] * (ASPECT_RATIOS[1] / ASPECT_RATIOS[0]) ** shape
    height, width = (max(1, round(size * min(1.0, fraction * factor))) for factor in (aspect**0.5, aspect**-0.5))
    top, left = int(down * (size - height + 1)), int(right * (size - width + 1))
    part = image[None, :, top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]


class FileEmbeddingCache:
    """Caches the image embeddings [L, D] of files in host memory, without waiting for the GPU.

    Args:
        network: the network; its image encoder must be frozen.
        size: maximum bytes to cache; further images are encoded each time.

    Attributes:
        embeddings: the cached embeddings, by path.
        bytes_left: free bytes of the cache.
    """

    def __init__(self, network: Network, size: float) -> None:
        self.network = network
        self.encoder = GraphedImageEncoder(network)
        self.bytes_left = size
        self.embeddings: dict[Path, torch.Tensor] = {}

    def embed(self, batch: Batch) -> torch.Tensor | None:
        """Return the image embeddings [P, L, D] of a batch; None if it has no images."""
        if not batch.image_paths:
            return None
        known = dict.fromkeys(batch.image_paths)
        known.update((path, self.embeddings[path]) for path in batch.image_paths if path in self.embeddings)
        new = [number for number, path in enumerate(batch.image_paths) if path not in self.embeddings]
        if new and batch.pixels is not None:
            # Index on the device: indexing on the host would make a copy without pinned memory, whose transfer blocks.
            pixels = to_device(batch.pixels, self.network.device)
            chosen = torch.stack([pixels[batch.decoded.index(number)] for number in new])
            for number, embedding in zip(new, self._compute(chosen), strict=True):
                known[batch.image_paths[number]] = embedding
                self._keep(batch.image_paths[number], embedding)
        device = self.network.device
        return torch.stack([to_device(embedding, device) for embedding in known.values() if embedding is not None])

    def is_cached(self, batch: Batch) -> list[bool]:
        """Return for each example whether its image is cached, so that it need not be decoded again."""
        return [image >= 0 and batch.image_paths[image] in self.embeddings for image in batch.image_indices]

    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        # The embeddings are cloned, because the encoder reuses its output buffer.
        return torch.cat([self.encoder.encode(part).clone() for part in pixels.split(BATCH_BUCKETS[-1])])

    def _keep(self, path: Path, embedding: torch.Tensor) -> None:
        if embedding.nbytes <= self.bytes_left:
            self.bytes_left -= embedding.nbytes
            kept = torch.empty(embedding.shape, dtype=embedding.dtype, pin_memory=embedding.is_cuda)
            # Asynchronous, because only the GPU reads it again, in stream order.
            self.embeddings[path] = kept.copy_(embedding, non_blocking=True)
