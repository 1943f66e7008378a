"""Uploaded images: the resized copy for the model, the preview for the page, and the file's path."""

import base64
import dataclasses
import io
import re
from dataclasses import dataclass

from PIL import Image

from model import ImageError
from model.images.decode import SERVED_FORMATS
from model.images.decode_process import ImageDecoder
from model.images.preprocess import ImageLimits, read_data_url

from .uploads import UploadError, UploadFolder

LIMITS = ImageLimits(max_bytes=20 * 1024 * 1024, formats=SERVED_FORMATS)
PREVIEW_SIDE = 1024  # pixels; enough for the page, and quick to encode
PREVIEW_QUALITY = 90
DATA_URL_START = re.compile(r"data:image/[\w.+-]{1,99};base64,")
MEDIA_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True, eq=False)
class UploadedImage:
    """An image that was decoded once. The original file stays in the upload folder, not in memory.

    Create it with an `UploadedImageReader`, which validates the file.

    Attributes:
        resized: RGB, at the model's input size; preprocessing does not change it.
        preview: JPEG file, at most PREVIEW_SIDE pixels high and wide.
        path: the original file, which the upload folder may remove.
    """

    resized: Image.Image
    preview: bytes
    path: str

    @property
    def memory(self) -> int:
        """Bytes of the resized copy and the preview."""
        return self.resized.width * self.resized.height * 3 + len(self.preview)

    def to_data_url(self, folder: UploadFolder) -> tuple[str, bool]:
        """Return the image as a data URL, and whether it holds the bytes of the uploaded file.

        If the file was removed, the URL holds the preview.
        """
        try:
            data, is_original = folder.read(self.path, LIMITS.max_bytes), True
        except UploadError:
            data, is_original = self.preview, False
        return f"data:{media_type(data)};base64,{base64.b64encode(data).decode('ascii')}", is_original


class UploadedImageReader:
    """Decodes untrusted image files in child processes.

    Args:
        folder: holds the files.
        size: side of the model's square input, pixels.
    """

    def __init__(self, folder: UploadFolder, size: int) -> None:
        self.folder = folder
        self.size = size
        self.decoder = ImageDecoder(LIMITS)

    def from_file(self, path: str) -> UploadedImage:
        """Decode an uploaded file or an example.

        Raises:
            ImageError: the file is not an image, or the image is too large.
            UploadError: `path` is neither an upload nor an example.
        """
        return self._decode(self.folder.read(path, LIMITS.max_bytes), path)

    def from_data_url(self, url: str) -> UploadedImage:
        """Decode the image in a data URL and save its bytes in the folder. Nothing else is opened.

        Raises:
            ImageError: `url` is not a base64 data URL of an image.
            UploadError: the folder is full.
        """
        if DATA_URL_START.match(url) is None:
            raise ImageError("The image is not a data URL (data:image/png;base64,...). Put its bytes there as base64.")
        data = read_data_url(url.encode("ascii", "replace"), LIMITS.max_bytes)
        image = self._decode(data, "")
        return dataclasses.replace(image, path=self.folder.save(data, "picture"))

    def _decode(self, data: bytes, path: str) -> UploadedImage:
        decoded = self.decoder.decode(data, self.size, preview=PREVIEW_SIDE, name="The image data")
        assert decoded.preview is not None  # requested above
        return UploadedImage(decoded.image, to_jpeg(decoded.preview), path)

    def close(self) -> None:
        """Stop the child processes."""
        self.decoder.close()


def to_jpeg(image: Image.Image) -> bytes:
    """Encode a preview as JPEG, so that it takes little memory."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()


def media_type(data: bytes) -> str:
    """Return the media type of an image file's bytes."""
    # Our reader identifies formats by the bytes. Only browsers use the media type, and they show no other formats.
    return f"image/{next((name for start, name in MEDIA_TYPES.items() if data.startswith(start)), 'x-picture')}"
