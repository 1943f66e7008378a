"""Cache image embeddings, and compute missing ones in batches for concurrent threads."""

import os
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Generic, TypeVar

import torch
from blake3 import blake3
from PIL import Image

from ..aliases import FormerAttribute
from ..engine.cuda_graph import CudaGraphs
from ..engine.network import Network, to_device
from ..errors import ImageError
from .encoder_layers import EncoderLayers, can_run
from .preprocess import load_image, preprocess

T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[T, R]):
    """Dynamic micro-batching: merges concurrent calls from several threads into one batched call.

    There is no batching delay: the first thread to acquire the lock processes everything queued so far, in FIFO order.

    Args:
        function: maps a list of items to a list of results of the same length; runs in one thread at a time.
        max_batch_size: maximum number of items per call.
    """

    def __init__(self, function: Callable[[list[T]], list[R]], max_batch_size: int) -> None:
        self.function = function
        self.max_batch_size = max_batch_size
        self._queue: deque[tuple[T, Future[R]]] = deque()
        self._lock = threading.Lock()

    def map(self, items: Sequence[T]) -> list[R]:
        """Return the result of each item.

        Raises:
            Exception: raised by the function, called with one of these items alone.
        """
        own_items = [(item, Future[R]()) for item in items]
        self._queue.extend(own_items)
        with self._lock:
            while not all(future.done() for _, future in own_items):
                self._process(min(self.max_batch_size, len(self._queue)))
        return [future.result() for _, future in own_items]

    def _process(self, count: int) -> None:
        """Call the function with the first `count` queued items; if it fails, with each item alone.

        One bad item must not fail the others.
        """
        # Items stay queued until they have results, so that an interrupt of this thread loses no item of another.
        items = [self._queue[number][0] for number in range(count)]
        try:
            results = self.function(items)
        except Exception as error:
            if count > 1:
                for _ in items:
                    self._process(1)
            else:
                self._queue.popleft()[1].set_exception(error)
        else:
            for result in results:
                self._queue.popleft()[1].set_result(result)


def count_cores() -> int:
    """Return the number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CpuPool:
    """Limits the number of concurrently computing threads to the available cores, across all callers.

    Unlike torch's own threads they do not synchronize at each operation. So if another program takes a core, only one
    item is delayed.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.active = 0

    @property
    def max_workers(self) -> int:
        """Maximum number of computing threads, if each uses as many cores as torch uses per operation."""
        return max(1, count_cores() // torch.get_num_threads())

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a free slot and occupy it during the block."""
        with self.changed:
            self.changed.wait_for(lambda: self.active < self.max_workers)
            self.active += 1
        try:
            yield
        finally:
            with self.changed:
                self.active -= 1
                self.changed.notify()

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return `work(item)` for each item, computed in threads that end with this call.

        Raises:
            Exception: the first exception raised by `work`, in item order.
        """
        run_in_slot = self.slot()(work)
        threads = min(self.max_workers, len(items))
        if threads <= 1:
            return list(map(run_in_slot, items))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run_in_slot, items))


# One CUDA graph is captured for each of these batch sizes; smaller batches are padded.
BATCH_BUCKETS = (1, 4, 16)


class GraphedImageEncoder:
    """Encodes images with CUDA graphs on a GPU, else with the plain network. Not thread-safe."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.graphs = CudaGraphs()
        self.weights_pointer: int | None = None
        self.run = self._run_with_graph
        self.encode_batch: Callable[[torch.Tensor], torch.Tensor] = network.encode_image
        self.pixels = self.embeddings = torch.empty(0)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels [B, 3, S, S], B <= 16, to embeddings [B, L, D], valid until the next call."""
        if self.network.device.type != "cuda":
            return self.network.encode_image(pixels)
        self._allocate_buffers()
        count = next(count for count in BATCH_BUCKETS if count >= len(pixels))
        self.pixels[: len(pixels)] = pixels
        self.run(count)
        return self.embeddings[: len(pixels)]

    def _run_with_graph(self, count: int) -> None:
        try:
            self.graphs.run(count, lambda: self._fill_embeddings(count))
        except RuntimeError as error:
            warnings.warn(f"The vision encoder cannot be captured in a CUDA graph and is slower: {error}", stacklevel=2)
            self.run = self._fill_embeddings
            self.run(count)

    def _fill_embeddings(self, count: int) -> None:
        encoded = self.encode_batch(self.pixels[:count])
        if not len(self.embeddings):
            self.embeddings = encoded.new_zeros(BATCH_BUCKETS[-1], *encoded.shape[1:])
        self.embeddings[:count] = encoded

    def _allocate_buffers(self) -> None:
        """Reallocate the static buffers if the weights have moved, detected by the first parameter's data_ptr."""
        weights_pointer = next(self.network.vision_encoder.parameters()).data_ptr()
        if weights_pointer == self.weights_pointer:
            return
        self.graphs.clear()
        size, device, dtype = self.network.image_size, self.network.device, self.network.dtype
        self.pixels = torch.zeros(BATCH_BUCKETS[-1], 3, size, size, device=device, dtype=dtype)
        self.embeddings = torch.empty(0)
        self.encode_batch = EncoderLayers(self.network) if can_run(self.network) else self.network.encode_image
        self.weights_pointer = weights_pointer


# Capacity of the cache: 256 KB per image for VisualGLM-6B in half precision.
MAX_CACHED_IMAGES = 256
# Maximum batch size on a GPU.
GPU_BATCH = BATCH_BUCKETS[-1]
# Maximum batch size of a CPU thread: with single images, threads would wait longer for the GIL.
CPU_BATCH = 4
# Shared by all models in the process.
cpu_pool = CpuPool()


def split_for_cpu(images: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Split images into batches for the threads of the CPU pool."""
    size = min(CPU_BATCH, -(-len(images) // cpu_pool.max_workers))
    return [images[start : start + size] for start in range(0, len(images), size)]


def image_digest(pixels: torch.Tensor) -> str:
    """Return a hexadecimal BLAKE3 digest of the shape, dtype and values of a tensor, for use as a cache key."""
    flat = pixels.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = blake3(f"{tuple(pixels.shape)} {pixels.dtype}".encode())
    digest.update(flat.numpy().data)
    return digest.hexdigest()


class ImageEmbeddingCache:
    """Thread-safe LRU cache of image embeddings. Create a new one when the weights have changed.

    On a CPU, several images are encoded concurrently in threads, in which the vision encoder's hooks run as well. On a
    GPU, images from concurrent calls are encoded in one batch.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.encoder = GraphedImageEncoder(network)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._in_progress: set[str] = set()
        self._changed = threading.Condition()
        # On a GPU only one call at a time, because the encoder has one input buffer.
        self._batcher = MicroBatcher(self._encode_batch, GPU_BATCH)

    at_once = FormerAttribute("preferred_batch_size")

    @property
    def preferred_batch_size(self) -> int:
        """Preferred batch size for `encode` if requests can start before all images are encoded."""
        return CPU_BATCH * cpu_pool.max_workers if self.network.device.type == "cpu" else GPU_BATCH

    def to_pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Preprocess an image to pixels [1, 3, S, S]; pixels are returned after a check of their shape.

        Raises:
            ImageError: the image cannot be used, or the pixels have another shape.
        """
        size = self.network.image_size
        if not isinstance(image, torch.Tensor):
            return preprocess(load_image(image), size)[None]
        pixels = image if image.ndim == 4 else image[None]
        if pixels.shape != (1, 3, size, size):
            raise ImageError(
                f"The image's pixels have the shape {list(image.shape)}. Give [1, 3, {size}, {size}], or a PIL image."
            )
        return pixels

    def encode(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the image embeddings [1, L, D] for the pixels [1, 3, S, S] of each image."""
        keys = [image_digest(pixels) for pixels in images]
        with self._reserved(keys) as found:
            missing = {key: pixels for key, pixels in zip(keys, images, strict=True) if key not in found}
            if missing:  # a cached image must not wait for the batches of other threads
                new, on_cpu = list(missing.values()), self.network.device.type == "cpu"
                groups = cpu_pool.map(self._encode_batch, split_for_cpu(new)) if on_cpu else [self._batcher.map(new)]
                found.update(zip(missing, chain.from_iterable(groups), strict=True))
        return [found[key] for key in keys]

    def embed(self, image: Image.Image | torch.Tensor | None) -> torch.Tensor | None:
        """Return the embeddings [1, L, D] of an image or of its pixels; None if there is no image."""
        return None if image is None else self.encode([self.to_pixels(image)])[0]

    @contextmanager
    def _reserved(self, keys: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        """Wait until no other thread encodes any of these images; yield the cached embeddings by key.

        This thread encodes the missing images; embeddings that the block adds to the dictionary are cached.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._in_progress.isdisjoint(keys))
            found = {key: self._embeddings[key] for key in keys if key in self._embeddings}
            missing = {*keys} - found.keys()
            self._in_progress |= missing
        try:
            yield found
        finally:
            with self._changed:
                self._in_progress -= missing
                self._store(found)
                self._changed.notify_all()

    @torch.inference_mode()
    def _encode_batch(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        device = self.network.device
        # Move to the GPU first: on the CPU, concatenation and conversion would use all cores and wait for a busy one.
        on_device = [to_device(pixels, device) for pixels in images]
        encode = self.encoder.encode if device.type == "cuda" else self.network.encode_image
        batch = torch.cat(on_device) if len(on_device) > 1 else on_device[0]
        return [embeddings[None].clone() for embeddings in encode(batch)]

    def _store(self, embeddings: dict[str, torch.Tensor]) -> None:
        """Add embeddings as the most recently used; evict the least recently used."""
        for key, value in embeddings.items():
            self._embeddings[key] = value
            self._embeddings.move_to_end(key)
        while len(self._embeddings) > MAX_CACHED_IMAGES:
            self._embeddings.popitem(last=False)
