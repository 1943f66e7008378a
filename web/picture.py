"""A visitor's picture: what the model gets of it, a preview to show, and where the uploaded file is."""

import base64
import binascii
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from model import ImageError
from model.image import ImageLimits, load_image

from .uploads import UploadError, UploadFolder

LIMITS = ImageLimits(max_bytes=20 * 1024 * 1024)
PREVIEW_SIDE = 1024  # pixels; enough for the page, and quick to encode
PREVIEW_QUALITY = 90
DATA_URL_START = re.compile(r"data:image/[\w.+-]{1,99};base64,")
MEDIA_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was decoded once. The original file stays in the upload folder and not in memory.

    Make one with `read`, `from_upload` or `from_data_url`, which check it.

    Attributes:
        image: RGB, as large as the model sees it; preprocessing leaves it as it is.
        preview: JPEG file, at most PREVIEW_SIDE pixels high and wide.
        path: the original file, which the upload folder may remove.
    """

    image: Image.Image
    preview: bytes
    path: str

    @classmethod
    def read(cls, data: bytes, path: str, size: int) -> "Picture":
        """Decode the bytes of a picture file.

        Args:
            path: of the same file in the upload folder.
            size: side of the square that the model sees, pixels.

        Raises:
            ImageError: they are no picture, or one that is too large.
        """
        image, preview = decode(data, size)
        return cls(image, to_jpeg(preview), path)

    @classmethod
    def from_upload(cls, path: str, folder: UploadFolder, size: int) -> "Picture":
        """Decode an uploaded file.

        Raises:
            ImageError: it is no picture, or one that is too large.
            UploadError: `path` is not an upload's.
        """
        return cls.read(folder.read(path, LIMITS.max_bytes), path, size)

    @classmethod
    def from_data_url(cls, url: str, folder: UploadFolder, size: int) -> "Picture":
        """Decode the picture in a data URL, whose bytes are saved in the folder. Nothing else is opened.

        Raises:
            ImageError: `url` is no base64 data URL of a picture.
            UploadError: there is no room in the folder.
        """
        start = DATA_URL_START.match(url)
        if start is None:
            raise ImageError(
                "The picture is not a data URL (data:image/png;base64,...). Put its bytes there as base64."
            )
        try:
            data = base64.b64decode("".join(url[start.end() :].split()), validate=True)
        except ValueError as error:  # a character that is not ASCII, too
            reason = error if isinstance(error, binascii.Error) else "it has other characters"
            raise ImageError(f"The picture is not base64: {reason}. Encode its bytes anew.") from error
        image, preview = decode(data, size)
        return cls(image, to_jpeg(preview), folder.save(data, "picture"))

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


def decode(data: bytes, size: int) -> tuple[Image.Image, Image.Image]:
    """Return the picture in the bytes of a file, upright and in RGB, twice.

    First size x size, resized as `preprocess` does; then the preview, at most PREVIEW_SIDE pixels high and wide.

    Raises:
        ImageError: they are no picture, or one that is too large.
    """
    image = load_image(data, limits=LIMITS)
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return resized, image


def to_jpeg(image: Image.Image) -> bytes:
    """Encode a preview, so that it takes little memory."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()


def media_type(data: bytes) -> str:
    """Return the media type of a picture file's bytes."""
    # Readers go by the bytes; the name matters to browsers alone, which show no other format anyway.
    return f"image/{next((name for start, name in MEDIA_TYPES.items() if data.startswith(start)), 'x-picture')}"


def read_example(path: Path, size: int) -> Picture:
    """Decode one of the page's own examples."""
    return Picture.read(path.read_bytes(), str(path), size)
