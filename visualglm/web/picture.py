"""A visitor's picture: what the model gets of it, a preview to show, and where the uploaded file is."""

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
class Picture:
    """A picture that was decoded once. The original file stays in the upload folder and not in memory.

    Make one with a `PictureReader`, which checks it.

    Attributes:
        image: RGB, as large as the model sees it; preprocessing leaves it as it is.
        preview: JPEG file, at most PREVIEW_SIDE pixels high and wide.
        path: the original file, which the upload folder may remove.
    """

    image: Image.Image
    preview: bytes
    path: str

    @property
    def memory(self) -> int:
        """Bytes that it takes."""
        return self.image.width * self.image.height * 3 + len(self.preview)

    def to_data_url(self, folder: UploadFolder) -> tuple[str, bool]:
        """Return the picture as a data URL, and whether it is the uploaded file, byte by byte the same.

        If that was removed, it is the preview.
        """
        try:
            data, is_original = folder.read(self.path, LIMITS.max_bytes), True
        except UploadError:
            data, is_original = self.preview, False
        return f"data:{media_type(data)};base64,{base64.b64encode(data).decode('ascii')}", is_original


class PictureReader:
    """Makes pictures of untrusted files, which are decoded in child processes.

    Args:
        folder: where the files are.
        size: side of the square that the model sees, pixels.
    """

    def __init__(self, folder: UploadFolder, size: int) -> None:
        self.folder = folder
        self.size = size
        self.decoder = ImageDecoder(LIMITS)

    def from_file(self, path: str) -> Picture:
        """Decode an uploaded file or an example.

        Raises:
            ImageError: it is no picture, or one that is too large.
            UploadError: `path` is neither.
        """
        return self._decode(self.folder.read(path, LIMITS.max_bytes), path)

    def from_data_url(self, url: str) -> Picture:
        """Decode the picture in a data URL, whose bytes are saved in the folder. Nothing else is opened.

        Raises:
            ImageError: `url` is no base64 data URL of a picture.
            UploadError: there is no room in the folder.
        """
        if DATA_URL_START.match(url) is None:
            raise ImageError(
                "The picture is not a data URL (data:image/png;base64,...). Put its bytes there as base64."
            )
        data = read_data_url(url.encode("ascii", "replace"), LIMITS.max_bytes)
        picture = self._decode(data, "")
        return dataclasses.replace(picture, path=self.folder.save(data, "picture"))

    def _decode(self, data: bytes, path: str) -> Picture:
        decoded = self.decoder.decode(data, self.size, preview=PREVIEW_SIDE, name="The picture data")
        assert decoded.preview is not None  # it was asked for
        return Picture(decoded.image, to_jpeg(decoded.preview), path)

    def close(self) -> None:
        """End the child processes."""
        self.decoder.close()


def to_jpeg(image: Image.Image) -> bytes:
    """Encode a preview, so that it takes little memory."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()


def media_type(data: bytes) -> str:
    """Return the media type of a picture file's bytes."""
    # Readers go by the bytes; the name matters to browsers alone, which show no other format anyway.
    return f"image/{next((name for start, name in MEDIA_TYPES.items() if data.startswith(start)), 'x-picture')}"
