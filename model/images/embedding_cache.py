"""Compute the image embeddings of each picture once, for all threads that ask, and keep them."""

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
from PIL import Image

from ..aliases import FormerAttribute
from ..engine.cuda_graph import CudaGraphs
from ..engine.network import Network, to_device
from ..errors import ImageError
from .preprocess import image_digest, load_image, preprocess

T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[T, R]):
    """Calls a function for the items of all threads that wait for it, in one thread at a time.

    Nobody waits for company: whoever finds the function free takes what has come meanwhile, first come first served.

    Args:
        function: makes of a list of items that of their results, one for each.
        most: items in a call.
    """

    def __init__(self, function: Callable[[list[T]], list[R]], max_batch_size: int) -> None:
        self.function = function
        self.max_batch_size = max_batch_size
        self._queue: deque[tuple[T, Future[R]]] = deque()
        self._lock = threading.Lock()

    def map(self, items: Sequence[T]) -> list[R]:
        """Return the result of each item.

        Raises:
            Exception: the function's, called for one of these items alone.
        """
        mine = [(item, Future[R]()) for item in items]
        self._queue.extend(mine)
        with self._lock:
            while not all(future.done() for _, future in mine):
                self._process(min(self.max_batch_size, len(self._queue)))
        return [future.result() for _, future in mine]

    def _process(self, count: int) -> None:
        """Call the function for the first items that wait; where it fails, for each alone, as one may be to blame."""
        # They wait until they have their results, so that an interrupt of this thread takes them from nobody.
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
    """Return how many cores this program may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CpuPool:
    """Lets no more threads compute at a time than there are cores for, whoever has started them.

    They do not wait for one another at each operation, as torch's own threads do, so that a core which another program
    takes delays a single piece of work.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.active = 0

    @property
    def max_workers(self) -> int:
        """How many threads may compute at a time, where each has as many cores as torch takes for an operation."""
        return max(1, count_cores() // torch.get_num_threads())

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until this thread may compute; it may during the block."""
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
        """Return what `work` makes of each item, in threads that end with the last of them.

        Raises:
            Exception: the first item's, in their order, that `work` has raised one for.
        """
        run_in_slot = self.slot()(work)
        threads = min(self.max_workers, len(items))
        if threads <= 1:
            return list(map(run_in_slot, items))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run_in_slot, items))


# A graph is recorded for each of these numbers of pictures; fewer are padded.
BATCH_BUCKETS = (1, 4, 16)


class GraphedImageEncoder:
    """Encodes pictures on a GPU by CUDA graphs, elsewhere by the network as it is. Not for several threads at once."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.graphs = CudaGraphs()
        self.weights_pointer: int | None = None
        self.run = self._run_with_graph
        self.pixels = self.embeddings = torch.empty(0)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S], B at most 16; they hold until the next call."""
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
            warnings.warn(f"The image part cannot be recorded as a CUDA graph, so it is slower: {error}", stacklevel=2)
            self.run = self._fill_embeddings
            self.run(count)

    def _fill_embeddings(self, count: int) -> None:
        rows = self.network.encode_image(self.pixels[:count])
        if not len(self.embeddings):
            self.embeddings = rows.new_zeros(BATCH_BUCKETS[-1], *rows.shape[1:])
        self.embeddings[:count] = rows

    def _allocate_buffers(self) -> None:
        """Prepare places for what goes in and out, anew when the weights have moved; the first tells of all."""
        weights_pointer = next(self.network.vision_encoder.parameters()).data_ptr()
        if weights_pointer == self.weights_pointer:
            return
        self.graphs.clear()
        size, device, dtype = self.network.image_size, self.network.device, self.network.dtype
        self.pixels = torch.zeros(BATCH_BUCKETS[-1], 3, size, size, device=device, dtype=dtype)
        self.embeddings = torch.empty(0)
        self.weights_pointer = weights_pointer


# Pictures whose embeddings are kept: 256 KB each at full size in half precision.
MAX_CACHED_IMAGES = 256
# Pictures that are encoded together.
GPU_BATCH = BATCH_BUCKETS[-1]
# The most that a thread of the CPU takes at once: one by one, threads would wait more for Python's lock.
CPU_BATCH = 4
# What every model in the program computes pictures on.
cpu_pool = CpuPool()


def split_for_cpu(images: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Share pictures out among the threads of the CPU."""
    size = min(CPU_BATCH, -(-len(images) // cpu_pool.max_workers))
    return [images[start : start + size] for start in range(0, len(images), size)]


class ImageEmbeddingCache:
    """Keeps the image embeddings of recent pictures, for any thread. Make a new one when the weights have changed.

    On a CPU several pictures are computed at a time, in threads; the image part's hooks, if any, run in these. On a GPU
    those that several threads ask for at the same time are computed together.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.encoder = GraphedImageEncoder(network)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._in_progress: set[str] = set()
        self._changed = threading.Condition()
        # On a GPU one call after another, by an encoder that has one place for what goes in.
        self._batcher = MicroBatcher(self._encode_batch, GPU_BATCH)

    at_once = FormerAttribute("preferred_batch_size")

    @property
    def preferred_batch_size(self) -> int:
        """How many pictures are best given to `encode` at a time, where some can be asked about before the others."""
        return CPU_BATCH * cpu_pool.max_workers if self.network.device.type == "cpu" else GPU_BATCH

    def to_pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """Return the pixels [1, 3, S, S] of a picture, or those given.

        Raises:
            ImageError: the picture cannot be used, or the pixels have another shape.
        """
        size = self.network.image_size
        if not isinstance(image, torch.Tensor):
            return preprocess(load_image(image), size)[None]
        pixels = image if image.ndim == 4 else image[None]
        if pixels.shape != (1, 3, size, size):
            raise ImageError(
                f"The picture's pixels have the shape {list(image.shape)}. Give [1, 3, {size}, {size}], or a PIL image."
            )
        return pixels

    def encode(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the image embeddings [1, L, D] of the pixels [1, 3, S, S] of each picture."""
        keys = [image_digest(pixels) for pixels in images]
        with self._reserved(keys) as found:
            missing = {key: pixels for key, pixels in zip(keys, images, strict=True) if key not in found}
            if missing:  # else there is nothing to wait for while others are computed
                new, on_cpu = list(missing.values()), self.network.device.type == "cpu"
                groups = cpu_pool.map(self._encode_batch, split_for_cpu(new)) if on_cpu else [self._batcher.map(new)]
                found.update(zip(missing, chain.from_iterable(groups), strict=True))
        return [found[key] for key in keys]

    def embed(self, image: Image.Image | torch.Tensor | None) -> torch.Tensor | None:
        """Return the image embeddings [1, L, D] of a picture or of its pixels; None for none."""
        return None if image is None else self.encode([self.to_pixels(image)])[0]

    @contextmanager
    def _reserved(self, keys: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        """Wait until no other thread computes any of these pictures; give the embeddings of those that are known.

        The others are this thread's to compute: what the block adds to the dictionary is kept for all.
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
        # To a GPU first: here they would be joined and converted by all cores, and wait for the one with other work.
        moved = [to_device(pixels, device) for pixels in images]
        encode = self.encoder.encode if device.type == "cuda" else self.network.encode_image
        return [row[None].clone() for row in encode(torch.cat(moved) if len(moved) > 1 else moved[0])]

    def _store(self, embeddings: dict[str, torch.Tensor]) -> None:
        """Remember these as the most recent ones."""
        for key, value in embeddings.items():
            self._embeddings[key] = value
            self._embeddings.move_to_end(key)
        while len(self._embeddings) > MAX_CACHED_IMAGES:
            self._embeddings.popitem(last=False)
