"""Uploaded images: decoded in child processes, and kept resized in a cache of limited memory."""

import base64
import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image

from model.images.decode import SERVED_FORMATS
from model.images.decode_process import ImageDecoder
from model.images.preprocess import ImageLimits

LIMITS = ImageLimits(max_bytes=20 * 1024 * 1024, formats=SERVED_FORMATS)
NAME = "The file"  # subject of error messages
PREVIEW_SIDE = 1024  # pixels; enough for the page, and quick to encode
PREVIEW_QUALITY = 90
MAX_CACHE_BYTES = 256 * 1024**2


@dataclass(frozen=True, eq=False)
class CachedImage:
    """An image of the cache.

    Attributes:
        resized: RGB images by the input size of the models; preprocessing does not change them.
        file: the bytes of the image file; b"" unless the cache keeps them.
    """

    resized: dict[int, Image.Image]
    file: bytes = b""

    @property
    def memory(self) -> int:
        """Bytes of the images and the file."""
        return sum(3 * size**2 for size in self.resized) + len(self.file)


@dataclass(frozen=True)
class ImageReply:
    """The server's reply to an uploaded image.

    Attributes:
        id: SHA-256 of the file in hexadecimal digits.
        width, height: of the upright image, pixels.
        preview: data URL of a JPEG with at most PREVIEW_SIDE pixels on each side.
    """

    id: str
    width: int
    height: int
    preview: str


class ImageCache:
    """Decodes untrusted image files and keeps the most recently used ones. Thread-safe.

    Args:
        sizes: sides of the models' square inputs, pixels.
        keep_files: whether to keep the files, too.
        max_bytes: maximum memory of all images.
    """

    def __init__(self, *sizes: int, keep_files: bool = False, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.sizes = dict.fromkeys(sizes)
        self.keep_files = keep_files
        self.max_bytes = max_bytes
        self.decoder = ImageDecoder(LIMITS)
        self._images: OrderedDict[str, CachedImage] = OrderedDict()
        self._memory = 0
        self._lock = threading.Lock()

    def add(self, data: bytes) -> ImageReply:
        """Decode an image file in a child process and put it into the cache.

        Raises:
            ImageError: `data` is not an image, or the image is too large.
        """
        first, *others = self.sizes
        decoded = self.decoder.decode(data, first, preview=PREVIEW_SIDE, name=NAME)
        assert decoded.preview is not None  # requested above
        resized = {first: decoded.image}
        resized.update((size, self.decoder.decode(data, size, name=NAME).image) for size in others)
        key = hashlib.sha256(data).hexdigest()
        self._store(key, CachedImage(resized, data if self.keep_files else b""))
        return ImageReply(key, *decoded.size, to_data_url(decoded.preview, "jpeg", quality=PREVIEW_QUALITY))

    def get(self, key: str) -> CachedImage | None:
        """Return the image with an id; None if it was removed to free memory, or was never sent."""
        with self._lock:
            image = self._images.get(key)
            if image is not None:
                self._images.move_to_end(key)
            return image

    def close(self) -> None:
        """Stop the child processes."""
        self.decoder.close()

    def _store(self, key: str, image: CachedImage) -> None:
        with self._lock:
            self._remove(key)
            self._images[key] = image
            self._memory += image.memory
            while self._memory > self.max_bytes and len(self._images) > 1:
                self._remove(next(iter(self._images)))

    def _remove(self, key: str) -> None:
        image = self._images.pop(key, None)
        self._memory -= image.memory if image else 0


def to_data_url(image: Image.Image, kind: str, **settings: int) -> str:
    """Encode an image as a data URL.

    Args:
        kind: "jpeg" or "png".
        settings: of Pillow's encoder.
    """
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
