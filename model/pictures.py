"""Pictures as the language model reads them, each computed once."""

import threading
from collections import OrderedDict
from typing import Any

import torch
from PIL import Image

from .image import image_digest, load_image, preprocess

# Pictures whose embeddings are kept: 256 KB each at full size in half precision.
CACHED_PICTURES = 8


class PictureEmbeddings:
    """Keeps the image embeddings of recent pictures, for any thread. Make a new one when the weights have changed.

    Args:
        network: has `image_size` and `encode_image`.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def to_pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Return the pixels [1, 3, S, S] of a picture, or those given."""
        if isinstance(image, torch.Tensor):
            return image if image.ndim == 4 else image[None]
        return preprocess(load_image(image), self.network.image_size)[None]

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [1, L, D] of pixels [1, 3, S, S]."""
        key = image_digest(pixels)
        with self._lock:
            if key not in self._embeddings:
                self._embeddings[key] = self.network.encode_image(pixels)
                while len(self._embeddings) > CACHED_PICTURES:
                    self._embeddings.popitem(last=False)
            self._embeddings.move_to_end(key)
            return self._embeddings[key]

    def embed(self, image: Image.Image | torch.Tensor | None) -> torch.Tensor | None:
        """Return the image embeddings [1, L, D] of a picture or of its pixels; None for none."""
        return None if image is None else self.encode(self.to_pixels(image))
