"""Scenes and questions -> batches to train on, drawn and encoded in worker processes.

A picture gets several questions, so that it is drawn and encoded once for all of them. Every batch has the same
shapes, so that one CUDA graph serves all steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from tiny.scenes import Scene, draw_scene, draw_sketch, object_map, place_map, sample_scene
from tiny.training.rows import Row, Sizes, draw_rows

PICTURE_SIZE = 224
# Pictures come in other sizes too, so they are drawn in some and scaled, as the chat would.
DRAWN_SIZES = (224, 224, 224, 224, 224, 168, 280)
SKETCH_RATE = 0.12  # how often a scene is drawn on a plain ground, as others may draw it
IGNORED_LABEL = -100

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Sequences:
    """Token sequences padded on the right to one length.

    Attributes:
        ids: [B, T].  labels: [B, T], the token that each position should predict, or IGNORED_LABEL.
        context: [B], tokens before <sop>.
        picture: [B], each row's picture, or None where the rows have none.
        image_start: index of the first placeholder, the same in every row.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    context: torch.Tensor
    picture: torch.Tensor | None
    image_start: int

    def map(self, change: Change) -> "Sequences":
        """Return the same with every tensor changed."""
        picture = None if self.picture is None else change(self.picture)
        return Sequences(change(self.ids), change(self.labels), change(self.context), picture, self.image_start)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor."""
        yield from (self.ids, self.labels, self.context)
        if self.picture is not None:
            yield self.picture


@dataclass
class Batch:
    """What one step trains on.

    Attributes:
        pictures: uint8 [P, S, S, 3].
        kinds, colors: [P, grid, grid], what each cell shows; -1 for none of the things.
        places: bool [P, places, places, kinds + colors], what stands in each cell of a coarser grid.
        sequences: groups of token sequences.
    """

    pictures: torch.Tensor
    kinds: torch.Tensor
    colors: torch.Tensor
    places: torch.Tensor
    sequences: list[Sequences]

    def map(self, change: Change) -> "Batch":
        """Return the same with every tensor changed."""
        parts = [part.map(change) for part in self.sequences]
        maps = change(self.kinds), change(self.colors), change(self.places)
        return Batch(change(self.pictures), *maps, parts)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor."""
        yield from (self.pictures, self.kinds, self.colors, self.places)
        for part in self.sequences:
            yield from part.tensors()

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device without waiting."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Called by the data loader."""
        return self.map(torch.Tensor.pin_memory)


def stack_rows(rows: list[Row], length: int, pad_id: int) -> Sequences:
    """Pad rows on the right; one that is longer than `length` leaves its place empty."""
    ids = np.full((len(rows), length), pad_id)
    labels = np.full((len(rows), length), IGNORED_LABEL)
    context = np.ones(len(rows), dtype=int)
    for number, row in enumerate(rows):
        if len(row) <= length:
            context[number] = len(row.prompt) - 1
            ids[number, : len(row)] = row.prompt + row.seen
            labels[number, context[number] : len(row) - 1] = row.answer
    picture = None if rows[0].image_start is None else torch.tensor([row.picture for row in rows])
    start = rows[0].image_start or 0
    return Sequences(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(context), picture, start)


def draw_picture(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene in one of the sizes, scaled to the model's: uint8 [S, S, 3]."""
    size = int(rng.choice(DRAWN_SIZES))
    picture = draw_sketch(scene, size, rng) if rng.random() < SKETCH_RATE else draw_scene(scene, size)
    return np.asarray(picture.resize((PICTURE_SIZE, PICTURE_SIZE), 3))  # 3: bicubic


def make_batch(tokenizer: Any, sizes: Sizes, lengths: list[int], step: int) -> Batch:
    """Draw the batch of a step: the same for the same sizes and step."""
    rng = np.random.default_rng([sizes.seed, step])
    scenes = [sample_scene(rng) for _ in range(sizes.pictures)]
    maps = [object_map(scene, sizes.grid) for scene in scenes]
    groups = draw_rows(tokenizer, sizes, scenes, rng)
    return Batch(
        torch.from_numpy(np.stack([draw_picture(scene, rng) for scene in scenes])),
        torch.from_numpy(np.stack([kinds for kinds, _ in maps])),
        torch.from_numpy(np.stack([colors for _, colors in maps])),
        torch.from_numpy(np.stack([place_map(scene, sizes.places) for scene in scenes])),
        [stack_rows(group, length, tokenizer.pad_token_id) for group, length in zip(groups, lengths, strict=True)],
    )


class Batches(IterableDataset[Batch]):
    """The batches of steps `first` to `last`, dealt out to the workers in turn."""

    def __init__(self, directory: Path, sizes: Sizes, lengths: list[int], first: int, last: int) -> None:
        self.directory = directory
        self.sizes = sizes
        self.lengths = lengths
        self.steps = range(first, last)

    def __iter__(self) -> Iterator[Batch]:
        from model.hf.tokenization_chatglm import ChatGLMTokenizer

        torch.set_num_threads(1)
        tokenizer = ChatGLMTokenizer.from_pretrained(self.directory)
        worker = torch.utils.data.get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in self.steps[start::stride]:
            yield make_batch(tokenizer, self.sizes, self.lengths, step)


def load_batches(dataset: Batches, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """Draw batches ahead in `workers` processes; they come in the order of their steps."""
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, pin_memory=pin_memory, prefetch_factor=4 if workers else None
    )
