"""Pictures as the language model reads them, each computed once."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from PIL import Image

from .encoder import COUNTS, ImageEncoder
from .image import image_digest, load_image, preprocess

# Pictures whose embeddings are kept: 256 KB each at full size in half precision.
CACHED_PICTURES = 256
# Pictures that are encoded together.
TOGETHER = COUNTS[-1]


class PictureEmbeddings:
    """Keeps the image embeddings of recent pictures, for any thread. Make a new one when the weights have changed.

    Args:
        network: as of `ImageEncoder`.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.encoder = ImageEncoder(network)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def to_pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Return the pixels [1, 3, S, S] of a picture, or those given."""
        if isinstance(image, torch.Tensor):
            return image if image.ndim == 4 else image[None]
        return preprocess(load_image(image), self.network.image_size)[None]

    @torch.inference_mode()
    def encode(self, pictures: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the image embeddings [1, L, D] of the pixels [1, 3, S, S] of each picture."""
        keys = [image_digest(pixels) for pixels in pictures]
        with self._lock:
            found = {key: self._embeddings[key] for key in keys if key in self._embeddings}
            missing = {key: pixels for key, pixels in zip(keys, pictures, strict=True) if key not in found}
            waiting = iter(missing.items())
            while some := list(islice(waiting, TOGETHER)):
                rows = self.encoder.encode(torch.cat([pixels for _, pixels in some]))
                found.update((key, row[None].clone()) for (key, _), row in zip(some, rows, strict=True))
            self._keep(found)
        return [found[key] for key in keys]

    def embed(self, image: Image.Image | torch.Tensor | None) -> torch.Tensor | None:
        """Return the image embeddings [1, L, D] of a picture or of its pixels; None for none."""
        return None if image is None else self.encode([self.to_pixels(image)])[0]

    def _keep(self, embeddings: dict[str, torch.Tensor]) -> None:
        """Remember these as the most recent ones."""
        for key, value in embeddings.items():
            self._embeddings[key] = value
            self._embeddings.move_to_end(key)
        while len(self._embeddings) > CACHED_PICTURES:
            self._embeddings.popitem(last=False)
