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
PREFETCH_FACTOR = 2  # batches that each process makes ahead, torch's default
USABLE_FRACTION = 0.9  # of what is free: the rest is for others


def free_shared_memory() -> int | None:
    """Return the free bytes of the shared memory; None if unlimited or unknown."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):
        return None
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def explain_no_workers() -> str | None:
    """Return why no process that reads data can be started; None if one can."""
    try:
        multiprocessing.get_context().Lock()  # a semaphore in the shared memory, as the queues have them
    except (ImportError, OSError) as error:
        return str(error)
    return None


def count_local_processes() -> int:
    """Return how many processes train on this machine and share its memory."""
    return max(1, read_integer("LOCAL_SIZE", read_integer("LOCAL_WORLD_SIZE", 1)))


def choose_workers(wanted: int, batch_bytes: int, batches: int) -> tuple[int, str]:
    """Return the number of data workers that fit, at most the number wanted, and a notice or an empty string.

    Args:
        wanted: processes.
        batch_bytes: the most bytes of a batch.
        batches: of a step.
    """
    if not wanted:
        return 0, ""
    reason = explain_no_workers()
    if reason is not None:
        return 0, f"The shared memory {SHARED_MEMORY} cannot be used ({reason}): the training reads its data itself."
    free = free_shared_memory()
    if free is None:
        return wanted, ""
    room = int(USABLE_FRACTION * free) // (count_local_processes() * max(1, batch_bytes))
    # A step holds its batches while the next one's are fetched.
    count = min(wanted, max(0, (room - 2 * batches) // PREFETCH_FACTOR))
    if count == wanted:
        return count, ""
    return count, (
        f"The shared memory {SHARED_MEMORY} has {free / 1e6:.0f} MB free, which is enough for {count} of {wanted} "
        "processes that read data (--num-workers). Docker gives more by --shm-size=1g."
    )


def start_worker(number: int) -> None:
    """Prepare a process that reads data, in that process."""
    ignore_signals()
    # A thread of the queue sends the batches. Where it fails, it drops the batch, for which the training would wait.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_worker)  # type: ignore[attr-defined]


def end_worker(error: Exception, batch: object) -> None:
    """End this process after an error of the thread that sends batches, so that the training learns of it."""
    print_text(f"A process that reads data cannot send a batch: {error}", file=sys.stderr)
    os._exit(1)


@contextmanager
def translate_worker_errors() -> Iterator[None]:
    """Turn torch's error about a process that reads data and has ended into an error for a person."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise TrainingError(
            f"A process that reads data has ended ({error}). Often memory ran out: give fewer by --num-workers, 0 for "
            "none, or a smaller --batch-size."
        ) from error


PAD_ID = 0  # the id after an example's end: any does, as it is neither seen nor learned


@dataclass
class Batch:
    """Examples side by side, padded on the right: contexts and pictures stand where they do in the chat.

    Attributes:
        input_ids: [B, T].
        labels: [B, T], not shifted; -100 where there is no loss.
        position_ids: [B, 2, T], those of the chat's prefill and decoding.
        attention_mask: bool [B, 1, T, T], True where a row sees a column; a row of padding sees something, too.
        image_starts: of each example where its picture's vectors go; -1 without a picture.
        pixels: float32 [P, 3, S, S], each decoded picture of the batch once; None where none is.
        pictures: of each example the index of its picture in `image_paths`; -1 without a picture.
        image_paths: the files of the pictures.
        decoded: of each of `pixels` its index in `image_paths`.
        context_lengths: of each example the tokens before <sop>.
        rows: of each example the number of its row.
        left_out: of each example how many tokens did not fit.
        skipped: numbers of rows whose pictures are broken, and which other examples stand for.
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
        """Called by the data loader."""
        names = ("input_ids", "labels", "position_ids", "attention_mask", "pixels")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value.pin_memory() for name, value in tensors.items() if value is not None})


def max_batch_bytes(count: int, length: int, image_size: int) -> int:
    """Return how many bytes a batch of `count` examples of `length` tokens has at most."""
    tokens = 4 * torch.int64.itemsize * length  # input_ids, labels, and position_ids, which are two
    return count * (tokens + torch.bool.itemsize * length**2 + 3 * torch.float32.itemsize * image_size**2)


def collate(examples: Sequence[Example]) -> Batch:
    """Put examples side by side."""
    length = max(len(example.input_ids) for example in examples)
    pixels = {example.image: example.pixels for example in examples if example.image is not None}
    images = list(pixels)
    decoded = {number: picture for number, picture in enumerate(pixels.values()) if picture is not None}
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
    """Return some examples of a batch, as long as the longest of them; pictures keep their places."""
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
    """Return a batch whose examples see other pictures, without those that none sees.

    Args:
        pixels: [P, 3, S, S].
        pictures: of each example the index of its picture in `pixels`; -1 without one.
    """
    used = sorted({picture for picture in image_indices if picture >= 0})
    places = {picture: number for number, picture in enumerate(used)}
    seen = pixels[used] if pixels is not None and used else None
    return replace(batch, pixels=seen, image_indices=[places.get(picture, -1) for picture in image_indices])


def pad(ids: list[int], length: int, filler: int) -> torch.Tensor:
    """Return the ids [length], the end filled up."""
    return torch.tensor(ids + [filler] * (length - len(ids)))


def make_position_ids(example: Example, length: int) -> torch.Tensor:
    """Return the position ids [2, length] of an example; those of padding go on."""
    return positions_2d(torch.arange(length), example.context_length)


def make_attention_mask(example: Example, length: int) -> torch.Tensor:
    """Return [length, length], True where a row sees a column: the context, itself, and what is before it."""
    return prefix_mask(torch.arange(length), example.context_length)


class _ErrorsAsItems(Dataset[list[Example] | DataError]):
    """Hands on an error of a row as data: raised in a worker process, it would arrive as the text of a traceback."""

    def __init__(self, dataset: Dataset[Example]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> list[Example] | DataError:
        """Called by the data loader with the indices of a batch."""
        try:
            return [self.dataset[index] for index in indices]
        except DataError as error:
            return error


def _collate_or_error(examples: list[Example] | DataError) -> Batch | DataError:
    return examples if isinstance(examples, DataError) else collate(examples)


def load_batches(
    dataset: Dataset[Example], batches: Iterable[Sequence[int]], workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """Load batches of examples ahead, in order.

    Args:
        dataset: the examples.
        batches: the indices of the examples of each batch.
        workers: processes that encode texts and decode pictures; 0 for this one.
        pin_memory: whether to make the tensors quick to copy to a GPU.

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
    others = set(multiprocessing.active_children())
    with block_signals():
        loaded: Any = iter(loader)
    started = set(multiprocessing.active_children()) - others
    try:
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        # An error's traceback may keep the loader, which ends its workers when it is deleted.
        if workers:
            loaded._shutdown_workers()
        for worker in started:
            worker.kill()
