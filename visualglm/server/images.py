"""Read the picture of a request: base64 text, a data URL or, where allowed, an address."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

from model import ImageError
from model.images.decode_process import DecodeTask, ImageDecoder
from model.images.preprocess import fetch_image
from model.images.url_fetch import display_url

from .settings import Settings

HTTP_URL = re.compile(r"\s*https?://", re.IGNORECASE)
URL_SCHEME = re.compile(r"\s*(?!data:)[a-z][a-z0-9+.-]{0,20}:", re.IGNORECASE)
MAX_DOWNLOADS = 8


class ImageSource:
    """The picture of a request as the client gave it, until it is taken.

    A picture has megabytes as text, and its answer takes a minute: nothing keeps the text meanwhile.
    """

    def __init__(self, text: str) -> None:
        self._text: str | None = text

    def take(self) -> str:
        """Return the text, and forget it."""
        text, self._text = self._text, None
        assert text is not None
        return text


class ImageReader:
    """Reads pictures in threads and processes of its own, so that no picture holds up other requests.

    Args:
        settings: what is allowed.
    """

    def __init__(self, settings: Settings) -> None:
        self.allow_urls = settings.allow_image_urls
        self.limits = settings.image_limits
        self.decoder = ImageDecoder(self.limits, seconds=settings.decode_timeout)
        self.active: set[DecodeTask] = set()
        # A thread waits for its child process, or for the pictures before it, and costs little.
        self.threads = ThreadPoolExecutor(settings.max_concurrent_answers, "picture")
        self.downloads = ThreadPoolExecutor(MAX_DOWNLOADS, "download")

    async def read(self, source: ImageSource, size: int) -> Image.Image:
        """Return the picture that `source` holds or, if allowed, links to, resized to `size` x `size` pixels.

        Cancelling ends the decoding at once.

        Raises:
            ImageError: it is not a picture, not allowed, or cannot be had.
        """
        text = source.take()
        if HTTP_URL.match(text):
            return await self._decode(await self._download(text.strip(), size))
        if scheme := URL_SCHEME.match(text):
            reason = f"A picture is not read from a {scheme[0].strip()} address."
            raise ImageError(f"{reason} Send the picture itself, as base64 text or a data URL.")
        data = text.encode("ascii", "replace")
        del text
        return await self._decode(DecodeTask(self.decoder, data, size, is_text=True, name="The picture data"))

    async def _download(self, url: str, size: int) -> DecodeTask:
        if not self.allow_urls:
            raise ImageError("Pictures are not read from addresses here. Send the picture itself as a data URL.")
        download = partial(fetch_image, url, self.limits)
        data = await asyncio.get_running_loop().run_in_executor(self.downloads, download)
        return DecodeTask(self.decoder, data, size, name=f"The picture {display_url(url)}")

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
        """End the decoding that is under way, the processes and the threads."""
        for decoding in list(self.active):
            decoding.cancel()
        for pool in (self.threads, self.downloads):
            pool.shutdown(wait=False, cancel_futures=True)
        self.decoder.close()
