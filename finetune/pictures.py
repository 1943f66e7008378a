"""The embeddings of pictures while the image part is frozen: computed once, and kept as far as memory is given."""

from pathlib import Path
from typing import Any

import torch

from .batches import Batch


class PictureCache:
    """Keeps the image embeddings [L, D] of files, in the host's memory.

    Args:
        network: computes them; its image part must not be trained.
        size: bytes to keep at most; what is beyond is computed each time.
    """

    def __init__(self, network: Any, size: float) -> None:
        self.network = network
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
            for number, embedding in zip(new, self._compute(batch.pixels[new]), strict=True):
                known[batch.images[number]] = embedding
                self._keep(batch.images[number], embedding)
        return torch.stack([embedding.to(self.network.device) for embedding in known.values() if embedding is not None])

    @torch.no_grad()
    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.encode_image(pixels.to(self.network.device))  # type: ignore[no-any-return]

    def _keep(self, path: Path, embedding: torch.Tensor) -> None:
        if embedding.nbytes <= self.left:
            self.left -= embedding.nbytes
            self.kept[path] = embedding.to("cpu", copy=True)
