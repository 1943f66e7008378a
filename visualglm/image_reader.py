"""Decode the image of a request: base64 text, a data URL or, if allowed, an http(s) URL."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

from model import ImageError
from model.images.decode_process import DecodeTask, ImageDecoder
from model.images.preprocess import ImageLimits, fetch_image
from model.images.url_fetch import display_url

HTTP_URL = re.compile(r"\s*https?://", re.IGNORECASE)
URL_SCHEME = re.compile(r"\s*(?!data:)[a-z][a-z0-9+.-]{0,20}:", re.IGNORECASE)
MAX_DOWNLOADS = 8


class ImageSource:
    """Holds the image text of a request until it is taken.

    The text can have megabytes, so it is freed before the answer is generated.
    """

    def __init__(self, text: str) -> None:
        self._text: str | None = text

    def take(self) -> str:
        """Return the text and drop the reference to it."""
        text, self._text = self._text, None
        assert text is not None
        return text


class ImageReader:
    """Decodes images in its own threads and child processes, so that no image delays other requests.

    Args:
        limits: on the size and the source of an image.
        allow_urls: whether images are downloaded from http(s) URLs.
        max_images: maximum number of images that are decoded or wait for it.
        seconds: CPU time limit for decoding an image.
    """

    def __init__(self, limits: ImageLimits, *, allow_urls: bool, max_images: int, seconds: float) -> None:
        self.allow_urls = allow_urls
        self.limits = limits
        self.decoder = ImageDecoder(limits, seconds=seconds)
        self.active: set[DecodeTask] = set()
        # These threads only wait for child processes, so many of them cost little.
        self.threads = ThreadPoolExecutor(max_images, "image")
        self.downloads = ThreadPoolExecutor(MAX_DOWNLOADS, "download")

    async def read(self, source: ImageSource, size: int) -> Image.Image:
        """Decode the image in `source` or, if allowed, at its URL; resize it to `size` x `size` pixels.

        Cancelling stops the decoding immediately.

        Raises:
            ImageError: the image is invalid, exceeds a limit, or cannot be downloaded.
        """
        text = source.take()
        if HTTP_URL.match(text):
            return await self._decode(await self._download(text.strip(), size))
        if scheme := URL_SCHEME.match(text):
            reason = f"Images are not read from {scheme[0].strip()} URLs."
            raise ImageError(f"{reason} Send the image itself, as base64 text or a data URL.")
        data = text.encode("ascii", "replace")
        del text
        return await self._decode(DecodeTask(self.decoder, data, size, is_text=True, name="The image data"))

    async def _download(self, url: str, size: int) -> DecodeTask:
        if not self.allow_urls:
            raise ImageError("This server does not read images from URLs. Send the image itself as a data URL.")
        download = partial(fetch_image, url, self.limits)
        data = await asyncio.get_running_loop().run_in_executor(self.downloads, download)
        return DecodeTask(self.decoder, data, size, name=f"The image {display_url(url)}")

    async def _decode(self, decoding: DecodeTask) -> Image.Image:
        self.active.add(decoding)
        try:
            return (await asyncio.get_running_loop().run_in_executor(self.threads, decoding.run)).image
        except asyncio.CancelledError:
            decoding.cancel()
            raise
        finally:
            self.active.discard(decoding)

    def close(self) -> None:
        """Cancel running decodings and stop the processes and threads."""
        for decoding in list(self.active):
            decoding.cancel()
        for pool in (self.threads, self.downloads):
            pool.shutdown(wait=False, cancel_futures=True)
        self.decoder.close()
