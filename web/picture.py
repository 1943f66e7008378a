"""A picture as it was uploaded, kept small while nobody asks about it."""

import base64
import binascii
import re
from dataclasses import dataclass

from PIL import Image

from model import ImageError
from model.image import ImageLimits, load_image

LIMITS = ImageLimits(max_bytes=20 * 1024 * 1024)  # each visitor's is kept in memory
PREVIEW_SIDE = 1024  # pixels; enough for the page, and quick to encode
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(?P<data>[A-Za-z0-9+/\s]*={0,2}\s*)")


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture file that can be decoded.

    A photograph has some MB as a file and ten times that as pixels, so a visitor's is decoded for each question anew.
    Make one with `read` or `from_data_url`, which check it.
    """

    data: bytes

    @classmethod
    def read(cls, data: bytes) -> "Picture":
        """Take the bytes of a picture file.

        Raises:
            ImageError: they are no picture, or one that is too large.
        """
        load_image(data, limits=LIMITS)
        return cls(data)

    @classmethod
    def from_data_url(cls, url: str) -> "Picture":
        """Take the picture in a data URL. Nothing else is opened, whatever `url` is.

        Raises:
            ImageError: `url` is no base64 data URL of a picture.
        """
        match = DATA_URL.fullmatch(url)
        if match is None:
            raise ImageError(
                "The picture is not a data URL (data:image/png;base64,...). Put its bytes there as base64."
            )
        try:
            return cls.read(base64.b64decode("".join(match["data"].split()), validate=True))
        except binascii.Error as error:
            raise ImageError(f"The picture is not base64: {error}. Encode its bytes anew.") from error

    @property
    def data_url(self) -> str:
        """The file as a data URL, byte by byte the same."""
        return f"data:{self._media_type()};base64,{base64.b64encode(self.data).decode('ascii')}"

    def open(self) -> Image.Image:
        """Return the picture in RGB, upright, as the model gets it."""
        return load_image(self.data, limits=LIMITS)

    def preview(self) -> Image.Image:
        """Return the picture in RGB, upright, at most PREVIEW_SIDE pixels high and wide."""
        image = self.open()
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return image

    def _media_type(self) -> str:
        starts = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
        # Readers go by the bytes; the name matters to browsers alone, which show no other format anyway.
        return f"image/{next((name for start, name in starts.items() if self.data.startswith(start)), 'x-picture')}"
