"""Decode untrusted image files in child processes, which can be killed and which share pixel budgets.

A C decoder cannot be interrupted in a thread, and only the end of a process is certain to free its memory.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError
from .decode import ImageLimits

WORKER = "model.images.decode_worker"
IMPORT_ROOT = str(Path(__file__).parents[2])  # the directory from which the child process imports `model`
DECODE_SECONDS = 10.0  # CPU time for one image
SMALL_PIXELS = 2_000_000  # images up to this size never wait for larger ones
BYTES_PER_PIXEL = 12  # upper bound: the image, a copy, and the decoder's buffers
BASE_MEMORY = 384 * 2**20  # bytes of address space for the code and the image file
MAX_REPLY_BYTES = 65_536  # of the JSON line


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image file: RGB, with the EXIF orientation applied and transparency on white.

    Attributes:
        image: S x S pixels, resized exactly as by `preprocess`, so that answers are those about the original image.
        size: width and height of the image in the file, upright.
        preview: a larger image in the original aspect ratio; None if not requested.
    """

    image: Image.Image
    size: tuple[int, int]
    preview: Image.Image | None = None


class WorkerDied(Exception):  # noqa: N818  (the caller raises ImageError instead)
    """The child process ended before its reply. The argument is its return code."""


class Worker:
    """A child process that decodes one image after another."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", WORKER]  # -P: no file in the working directory may shadow a module
        path = os.pathsep.join(filter(None, (IMPORT_ROOT, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libtiff and others report every damaged file there
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path},
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def exchange(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Image.Image]]:
        """Send a request with an image file; return the reply and its images.

        Raises:
            WorkerDied: the process was killed, by this process or by the system.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({**request, "bytes": len(data)}).encode() + b"\n")
            stdin.write(data)
            stdin.flush()
            reply = json.loads(stdout.readline(MAX_REPLY_BYTES))
            images = []
            for width, height in reply.get("sizes", []):
                images.append(Image.frombytes("RGB", (width, height), stdout.read(width * height * 3)))
        except (OSError, ValueError) as error:
            self.kill()
            raise WorkerDied(self.process.returncode) from error
        return reply, images

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # unread bytes in the pipe
                pass


class PixelBudget:
    """Admits images in FIFO order while the total number of pixels is within the budget.

    Args:
        pixels: budget of concurrently decoded pixels; a larger image is admitted alone.
        max_images: maximum number of concurrently decoded images.
    """

    def __init__(self, pixels: int, max_images: int) -> None:
        self.pixels = pixels
        self.max_images = max_images
        self.used: list[int] = []
        self.waiting: deque[object] = deque()
        self.changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait for admission of an image of `pixels`, or for cancellation; count the image during the block."""
        ticket = object()
        with self.changed:
            self.waiting.append(ticket)
            self.changed.wait_for(lambda: is_cancelled() or (self.waiting[0] is ticket and self._fits(pixels)))
            self.waiting.remove(ticket)
            self.used.append(pixels)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.used.remove(pixels)
                self.changed.notify_all()

    def notify_waiters(self) -> None:
        """Wake waiting threads so that they check for cancellation."""
        with self.changed:
            self.changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self.used or (len(self.used) < self.max_images and sum(self.used) + pixels <= self.pixels)


class ImageDecoder:
    """Thread-safe decoder of image files in child processes, which are killed if a file takes too long.

    Args:
        limits: maximum sizes and costs, and accepted formats.
        processes: maximum number of child processes, started on demand; None for the number of cores plus one.
        seconds: CPU time limit for one image.
    """

    def __init__(self, limits: ImageLimits, processes: int | None = None, seconds: float = DECODE_SECONDS) -> None:
        self.limits = limits
        self.seconds = seconds
        count = processes or (os.cpu_count() or 1) + 1
        self.worker_slots = threading.Semaphore(count)
        self.idle: deque[Worker] = deque()
        # One process is reserved for small images.
        self.large = PixelBudget(limits.max_pixels, max(1, count - 1))
        self.small = PixelBudget(count * SMALL_PIXELS, count)
        self._close = weakref.finalize(self, _kill_workers, self.idle)

    def decode(
        self, data: bytes, size: int, *, preview: int | None = None, name: str = "The image", timeout: float = 60.0
    ) -> DecodedImage:
        """Decode an image file; see `DecodeTask`.

        Raises:
            ImageError: it is not an image, exceeds the limits, or was not decoded within `timeout` seconds.
        """
        decoding = DecodeTask(self, data, size, preview=preview, name=name)
        timer = threading.Timer(timeout, decoding.cancel)
        timer.start()
        try:
            return decoding.run()
        finally:
            timer.cancel()

    def warm_up(self) -> None:
        """Start a child process, so that the first image does not wait for it."""
        with self.worker() as worker:
            assert worker.is_alive

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Reserve an idle child process, or a new one, for this thread during the block."""
        with self.worker_slots:
            worker = self._get_worker()
            try:
                yield worker
            finally:
                if worker.is_alive:
                    self.idle.append(worker)

    def _get_worker(self) -> Worker:
        while self.idle:
            worker = self.idle.pop()
            if worker.is_alive:
                return worker
            worker.kill()
        return Worker()

    def close(self) -> None:
        """Kill the idle child processes."""
        self._close()


def _kill_workers(workers: "deque[Worker]") -> None:
    while workers:
        workers.pop().kill()


class DecodeTask:
    """A cancellable task that decodes one image.

    Args:
        decoder: the decoder that runs the task.
        data: an image file, or its base64 text or data URL in ASCII if `is_text`.
        size: S, the side in pixels of the square image for the model.
        preview: longest side in pixels of a preview in the original aspect ratio; None for no preview.
        name: name of the image in error messages.
    """

    def __init__(
        self,
        decoder: ImageDecoder,
        data: bytes,
        size: int,
        *,
        preview: int | None = None,
        is_text: bool = False,
        name: str = "The image",
    ) -> None:
        self.decoder = decoder
        self.data = data
        self.name = name
        limits = {item: getattr(decoder.limits, item) for item in ("max_pixels", "max_bytes", "formats")}
        self.header = {
            "name": name,
            "is_text": is_text,
            "limits": limits,
            "size": None,
            "preview": None,
            "seconds": decoder.seconds,
            "memory": BASE_MEMORY + BYTES_PER_PIXEL * decoder.limits.max_pixels,
        }
        self.request = {**self.header, "size": size, "preview": preview}
        self.is_cancelled = False
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def run(self) -> DecodedImage:
        """Decode the image.

        Raises:
            ImageError: it is not an image, exceeds the limits, or took too long.
        """
        pixels = self._run_request(self.header)[0]["pixels"]
        budget = self.decoder.small if pixels <= SMALL_PIXELS else self.decoder.large
        with budget.reserve(pixels, lambda: self.is_cancelled):
            reply, images = self._run_request(self.request)
            width, height = reply["size"]
            return DecodedImage(images[0], (width, height), *images[1:])

    def cancel(self) -> None:
        """Kill the process that decodes the image, or prevent its start; any thread may call this."""
        with self._lock:
            self.is_cancelled = True
            if self._worker is not None:
                self._worker.process.kill()
        for budget in (self.decoder.small, self.decoder.large):
            budget.notify_waiters()

    def _run_request(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[Image.Image]]:
        with self.decoder.worker() as worker:
            with self._lock:
                if self.is_cancelled:
                    raise self._timeout_error()
                self._worker = worker
            try:
                reply, images = worker.exchange(request, self.data)
            except WorkerDied as error:
                raise self._decode_error(error.args[0]) from error
            finally:
                with self._lock:
                    self._worker = None
        if "error" in reply:
            raise ImageError(reply["error"])
        if "bug" in reply:
            raise RuntimeError(reply["bug"])
        return reply, images

    def _decode_error(self, return_code: int) -> ImageError:
        if self.is_cancelled or return_code == -getattr(signal, "SIGXCPU", 0):
            return self._timeout_error()
        return ImageError(f"{self.name} cannot be decoded; it is damaged, or needs too much memory. Scale it down.")

    def _timeout_error(self) -> ImageError:
        return ImageError(f"{self.name} takes too long to decode. Scale it down or save it as JPEG.")
