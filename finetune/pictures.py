"""The embeddings of pictures while the image part is frozen: computed once, and kept as far as memory is given."""

from pathlib import Path
from typing import Any

import torch

from model.engine.network import to_device
from model.images.encoder import COUNTS, ImageEncoder

from .batches import Batch


class PictureCache:
    """Keeps the image embeddings [L, D] of files, in the host's memory, without waiting for a GPU.

    Args:
        network: computes them; its image part must not be trained.
        size: bytes to keep at most; what is beyond is computed each time.
    """

    def __init__(self, network: Any, size: float) -> None:
        self.network = network
        self.encoder = ImageEncoder(network)
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
        return torch.cat([self.encoder.encode(part).clone() for part in pixels.split(COUNTS[-1])])

    def _keep(self, path: Path, embedding: torch.Tensor) -> None:
        if embedding.nbytes <= self.left:
            self.left -= embedding.nbytes
            kept = torch.empty(embedding.shape, dtype=embedding.dtype, pin_memory=embedding.is_cuda)
            self.kept[path] = kept.copy_(embedding, non_blocking=True)  # read again by the GPU alone, in its order
