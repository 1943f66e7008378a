"""What a request says of its picture -> the picture: base64 text, a data URL or, where allowed, an address."""

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from model import ImageError
from model.image import decode_base64, load_image

from .settings import Settings

WEB_ADDRESS = re.compile(r"\s*https?://", re.IGNORECASE)
SCHEME = re.compile(r"\s*(?!data:)[a-z][a-z0-9+.-]{0,20}:", re.IGNORECASE)
MOST_DOWNLOADS = 8


class PictureReader:
    """Reads pictures in threads of its own, so that neither a large one nor a slow server holds others up.

    Args:
        settings: what is allowed.
    """

    def __init__(self, settings: Settings) -> None:
        Image.init()  # else the first odd picture would make Pillow import its rarer formats
        self.allow_urls = settings.allow_image_urls
        self.limits = settings.image_limits
        # Only so many are decoded at a time: a decoded picture takes far more memory than its file.
        self.decoders = ThreadPoolExecutor(os.cpu_count() or 1, "picture")
        self.downloads = ThreadPoolExecutor(MOST_DOWNLOADS, "download")

    async def read(self, source: str) -> Image.Image:
        """Return the picture that `source` holds or, where that is allowed, names.

        Raises:
            ImageError: it is none, is not allowed, or cannot be had.
        """
        loop = asyncio.get_running_loop()
        if WEB_ADDRESS.match(source):
            if not self.allow_urls:
                raise ImageError("Pictures are not read from addresses here. Send the picture itself as a data URL.")
            return await loop.run_in_executor(self.downloads, lambda: load_image(source, limits=self.limits))
        if scheme := SCHEME.match(source):
            reason = f"A picture is not read from a {scheme[0].strip()} address."
            raise ImageError(f"{reason} Send the picture itself, as base64 text or a data URL.")
        return await loop.run_in_executor(self.decoders, lambda: decode_base64(source, limits=self.limits))

    def close(self) -> None:
        """End the threads."""
        for pool in (self.decoders, self.downloads):
            pool.shutdown(wait=False, cancel_futures=True)
