"""Collate examples into batches in worker processes."""

import multiprocessing
import multiprocessing.queues
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from model.command_line import print_text
from model.environment import read_integer
from model.kernels.torch_ops import positions_2d, prefix_mask

from .encoding import IGNORE_INDEX, Example
from .errors import DataError, TrainingError
from .stopping import block_signals, ignore_signals

SHARED_MEMORY = Path("/dev/shm")
PREFETCH_FACTOR = 2  # batches that each worker prefetches; torch's default
USABLE_FRACTION = 0.9  # fraction of the free shared memory to use; the rest is for other programs


def free_shared_memory() -> int | None:
    """Return the free bytes of the shared memory; None if there is no limit or it is unknown."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):
        return None
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def explain_no_workers() -> str | None:
    """Return why no data worker can be started; None if one can."""
    try:
        multiprocessing.get_context().Lock()  # a semaphore in shared memory, like those of the queues
    except (ImportError, OSError) as error:
        return str(error)
    return None


def count_local_processes() -> int:
    """Return the number of training processes on this machine, which share its memory."""
    return max(1, read_integer("LOCAL_SIZE", read_integer("LOCAL_WORLD_SIZE", 1)))


def choose_workers(wanted: int, batch_bytes: int, batches: int) -> tuple[int, str]:
    """Return the number of data workers for which the shared memory suffices, and a notice or "".

    Args:
        wanted: maximum number of workers.
        batch_bytes: maximum size of a batch in bytes.
        batches: batches per step.
    """
    if not wanted:
        return 0, ""
    reason = explain_no_workers()
    if reason is not None:
        return 0, f"The shared memory {SHARED_MEMORY} cannot be used ({reason}): data is loaded without workers."
    free = free_shared_memory()
    if free is None:
        return wanted, ""
    capacity = int(USABLE_FRACTION * free) // (count_local_processes() * max(1, batch_bytes))  # batches
    # A step keeps its batches while those of the next step are fetched.
    count = min(wanted, max(0, (capacity - 2 * batches) // PREFETCH_FACTOR))
    if count == wanted:
        return count, ""
    return count, (
        f"The shared memory {SHARED_MEMORY} has {free / 1e6:.0f} MB free, which is enough for {count} of {wanted} "
        "data workers (--num-workers). Docker provides more with --shm-size=1g."
    )


def start_worker(number: int) -> None:
    """Initialize a data worker, in its process."""
    ignore_signals()
    # A thread of the queue sends the batches. On an error it would drop the batch, and the training would wait forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_worker)  # type: ignore[attr-defined]


def end_worker(error: Exception, batch: object) -> None:
    """End this worker after an error of the thread that sends batches, so that the training fails, too."""
    print_text(f"A data worker cannot send a batch: {error}", file=sys.stderr)
    os._exit(1)


@contextmanager
def translate_worker_errors() -> Iterator[None]:
    """Turn torch's error about a data worker that has died into a TrainingError with advice."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise TrainingError(
            f"A data worker has died ({error}), often for lack of memory. Use a lower --num-workers (0 loads data "
            "without workers) or a smaller --batch-size."
        ) from error


PAD_ID = 0  # token id of padding: any will do, as padding is masked and has no loss


@dataclass
class Batch:
    """A batch of examples, padded on the right, so that contexts and images have the chat's positions.

    Attributes:
        input_ids: [B, T].
        labels: [B, T], not shifted; -100 at positions without a loss.
        position_ids: [B, 2, T], as in the chat's prefill and decode steps.
        attention_mask: bool [B, 1, T, T], True where a query (row) attends to a key (column); padding attends, too.
        image_starts: for each example the position of its image embeddings; -1 without an image.
        pixels: float32 [P, 3, S, S], each decoded image of the batch once; None if no image is decoded.
        image_indices: for each example the index of its image in `image_paths`; -1 without an image.
        image_paths: the files of the images.
        decoded: for each image of `pixels` its index in `image_paths`.
        context_lengths: for each example the number of tokens before <sop>.
        rows: for each example the number of its row.
        num_truncated: for each example the number of tokens that did not fit.
        skipped: numbers of the rows with broken images that are replaced by other examples.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    image_starts: list[int]
    pixels: torch.Tensor | None
    image_indices: list[int]
    image_paths: list[Path]
    decoded: list[int]
    context_lengths: list[int]
    rows: list[int]
    num_truncated: list[int]
    skipped: list[int]

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory; called by torch's DataLoader."""
        names = ("input_ids", "labels", "position_ids", "attention_mask", "pixels")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value.pin_memory() for name, value in tensors.items() if value is not None})


def max_batch_bytes(count: int, length: int, image_size: int) -> int:
    """Return the maximum size in bytes of a batch of `count` examples of `length` tokens."""
    tokens = 4 * torch.int64.itemsize * length  # input_ids, labels, and position_ids, which are two
    return count * (tokens + torch.bool.itemsize * length**2 + 3 * torch.float32.itemsize * image_size**2)


def collate(examples: Sequence[Example]) -> Batch:
    """Collate examples into a batch."""
    length = max(len(example.input_ids) for example in examples)
    pixels = {example.image: example.pixels for example in examples if example.image is not None}
    images = list(pixels)
    decoded = {number: image for number, image in enumerate(pixels.values()) if image is not None}
    return Batch(
        input_ids=torch.stack([pad(example.input_ids, length, PAD_ID) for example in examples]),
        labels=torch.stack([pad(example.labels, length, IGNORE_INDEX) for example in examples]),
        position_ids=torch.stack([make_position_ids(example, length) for example in examples]),
        attention_mask=torch.stack([make_attention_mask(example, length) for example in examples])[:, None],
        image_starts=[-1 if example.image_start is None else example.image_start for example in examples],
        pixels=torch.stack(list(decoded.values())) if decoded else None,
        image_indices=[-1 if example.image is None else images.index(example.image) for example in examples],
        image_paths=images,
        decoded=list(decoded),
        context_lengths=[example.context_length for example in examples],
        rows=[example.row for example in examples],
        num_truncated=[example.num_truncated for example in examples],
        skipped=[row for example in examples for row in example.skipped],
    )


def select_examples(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some examples of a batch, truncated to the longest of them; images keep their indices."""
    used = (batch.labels[rows] != IGNORE_INDEX).any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else batch.labels.shape[1]
    return replace(
        batch,
        input_ids=batch.input_ids[rows, :length],
        labels=batch.labels[rows, :length],
        position_ids=batch.position_ids[rows, :, :length],
        attention_mask=batch.attention_mask[rows, :, :length, :length],
        image_starts=[batch.image_starts[row] for row in rows],
        image_indices=[batch.image_indices[row] for row in rows],
        context_lengths=[batch.context_lengths[row] for row in rows],
        rows=[batch.rows[row] for row in rows],
        num_truncated=[batch.num_truncated[row] for row in rows],
    )


def replace_images(batch: Batch, pixels: torch.Tensor | None, image_indices: Sequence[int]) -> Batch:
    """Replace the images of a batch; unused images are left out.

    Args:
        batch: the batch.
        pixels: images [P, 3, S, S].
        image_indices: for each example the index of its image in `pixels`; -1 without an image.
    """
    used = sorted({index for index in image_indices if index >= 0})
    new_indices = {index: number for number, index in enumerate(used)}
    kept = pixels[used] if pixels is not None and used else None
    return replace(batch, pixels=kept, image_indices=[new_indices.get(index, -1) for index in image_indices])


def pad(ids: list[int], length: int, filler: int) -> torch.Tensor:
    """Return ids as a tensor [length], padded on the right."""
    return torch.tensor(ids + [filler] * (length - len(ids)))


def make_position_ids(example: Example, length: int) -> torch.Tensor:
    """Return the position ids [2, length] of an example; they continue in its padding."""
    return positions_2d(torch.arange(length), example.context_length)


def make_attention_mask(example: Example, length: int) -> torch.Tensor:
    """Return a prefix mask [length, length]: True for keys of the context and for keys up to the query."""
    return prefix_mask(torch.arange(length), example.context_length)


class _ErrorsAsItems(Dataset[list[Example] | DataError]):
    """Returns the error of a row as an item; if a worker raised it, only its traceback's text would arrive."""

    def __init__(self, dataset: Dataset[Example]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> list[Example] | DataError:
        """Return the examples of a batch, or the first error; called by torch's DataLoader."""
        try:
            return [self.dataset[index] for index in indices]
        except DataError as error:
            return error


def _collate_or_error(examples: list[Example] | DataError) -> Batch | DataError:
    return examples if isinstance(examples, DataError) else collate(examples)


def load_batches(
    dataset: Dataset[Example], batches: Iterable[Sequence[int]], workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield batches of examples in order; workers prefetch them.

    Args:
        dataset: the examples.
        batches: the indices of the examples of each batch.
        workers: processes that encode texts and decode images; 0 does this in the calling process.
        pin_memory: whether to put the tensors into pinned memory, for asynchronous copies to a GPU.

    Raises:
        DataError: a row cannot be used.
    """
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_collate_or_error,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
    existing = set(multiprocessing.active_children())
    with block_signals():
        loaded: Any = iter(loader)
    started = set(multiprocessing.active_children()) - existing
    try:
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        # The loader ends its workers when it is deleted, but the traceback of an error may refer to it.
        if workers:
            loaded._shutdown_workers()
        for worker in started:
            worker.kill()
