"""Pictures as the language model reads them, each computed once."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..engine.network import to_device
from ..errors import ImageError
from .cores import Cores
from .encoder import COUNTS, ImageEncoder
from .image import image_digest, load_image, preprocess
from .shared_calls import SharedCalls

# Pictures whose embeddings are kept: 256 KB each at full size in half precision.
CACHED_PICTURES = 256
# Pictures that are encoded together.
TOGETHER = COUNTS[-1]
# The most that a thread of the CPU takes at once: one by one, threads would wait more for Python's lock.
A_THREAD = 4
# What every model in the program computes pictures on.
cores = Cores()


class PictureEmbeddings:
    """Keeps the image embeddings of recent pictures, for any thread. Make a new one when the weights have changed.

    On a CPU several pictures are computed at a time, in threads; the image part's hooks, if any, run in these. On a GPU
    those that several threads ask for at the same time are computed together.

    Args:
        network: as of `ImageEncoder`.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.encoder = ImageEncoder(network)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._being_computed: set[str] = set()
        self._changed = threading.Condition()
        # On a GPU one call after another, by an encoder that has one place for what goes in.
        self._calls = SharedCalls(self._compute_together, TOGETHER)

    @property
    def at_once(self) -> int:
        """How many pictures are best given to `encode` at a time, where some can be asked about before the others."""
        return A_THREAD * cores.places if self.network.device.type == "cpu" else TOGETHER

    def to_pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Return the pixels [1, 3, S, S] of a picture, or those given.

        Raises:
            ImageError: the picture cannot be used, or the pixels have another shape.
        """
        size = self.network.image_size
        if not isinstance(image, torch.Tensor):
            return preprocess(load_image(image), size)[None]
        pixels = image if image.ndim == 4 else image[None]
        if pixels.shape != (1, 3, size, size):
            raise ImageError(
                f"The picture's pixels have the shape {list(image.shape)}. Give [1, 3, {size}, {size}], or a PIL image."
            )
        return pixels

    def encode(self, pictures: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the image embeddings [1, L, D] of the pixels [1, 3, S, S] of each picture."""
        keys = [image_digest(pixels) for pixels in pictures]
        with self._changed:
            self._changed.wait_for(lambda: self._being_computed.isdisjoint(keys))
            found = {key: self._embeddings[key] for key in keys if key in self._embeddings}
            missing = {key: pixels for key, pixels in zip(keys, pictures, strict=True) if key not in found}
            self._being_computed |= missing.keys()
        try:
            if missing:  # else there is nothing to wait for while others are computed
                found.update(zip(missing, self._compute(list(missing.values())), strict=True))
        finally:
            with self._changed:
                self._being_computed -= missing.keys()
                self._keep(found)
                self._changed.notify_all()
        return [found[key] for key in keys]

    def embed(self, image: Image.Image | torch.Tensor | None) -> torch.Tensor | None:
        """Return the image embeddings [1, L, D] of a picture or of its pixels; None for none."""
        return None if image is None else self.encode([self.to_pixels(image)])[0]

    def _compute(self, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.network.device.type == "cpu":
            size = min(A_THREAD, -(-len(pictures) // cores.places))
            groups = [pictures[start : start + size] for start in range(0, len(pictures), size or 1)]
            return [row for rows in cores.map(self._compute_together, groups) for row in rows]
        return self._calls.results(pictures)

    @torch.inference_mode()
    def _compute_together(self, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        # To a GPU first: here they would be joined and converted by all cores, and wait for the one with other work.
        moved = [to_device(pixels, self.network.device) for pixels in pictures]
        rows = self.encoder.encode(torch.cat(moved) if len(moved) > 1 else moved[0])
        return [row[None].clone() for row in rows]

    def _keep(self, embeddings: dict[str, torch.Tensor]) -> None:
        """Remember these as the most recent ones."""
        for key, value in embeddings.items():
            self._embeddings[key] = value
            self._embeddings.move_to_end(key)
        while len(self._embeddings) > CACHED_PICTURES:
            self._embeddings.popitem(last=False)
