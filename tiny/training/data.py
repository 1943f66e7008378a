"""Training batches of scenes and questions, rendered and encoded in worker processes.

An image has several questions, so that it is rendered and encoded once for all of them. All batches have the same
shapes, so that one CUDA graph serves every step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from tiny.training.encoding import BatchLayout, EncodedExample, sample_buckets
from visualglm.scenes import Scene, presence_map, render_scene, render_sketch, sample_scene, segmentation_map

IMAGE_SIZE = 224
# Images are rendered at several sizes and resized as the chat does, since users have images of any size.
RENDER_SIZES = (224, 224, 224, 224, 224, 168, 280)
SKETCH_RATE = 0.12  # share of scenes rendered as sketches: plain shapes on a plain ground
IGNORED_LABEL = -100

TensorMap = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Sequences:
    """Token sequences, right-padded to one length.

    Attributes:
        ids: [B, T].  labels: [B, T], the target token at each position, or IGNORED_LABEL.
        context: [B], number of tokens before <sop>.
        image_index: [B], index of each sequence's image in the batch; None for sequences without images.
        image_start: position of the first image placeholder, the same in every sequence.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    context: torch.Tensor
    image_index: torch.Tensor | None
    image_start: int

    def map(self, transform: TensorMap) -> "Sequences":
        """Apply a function to every tensor."""
        image_index = None if self.image_index is None else transform(self.image_index)
        return Sequences(
            transform(self.ids), transform(self.labels), transform(self.context), image_index, self.image_start
        )

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor."""
        yield from (self.ids, self.labels, self.context)
        if self.image_index is not None:
            yield self.image_index


@dataclass
class Batch:
    """One training batch.

    Attributes:
        images: uint8 [P, S, S, 3].
        kinds, colors: [P, grid, grid], segmentation labels; -1 for background.
        presence: bool [P, rows, rows, kinds + colors], presence labels on a coarser grid.
        sequences: buckets of token sequences.
    """

    images: torch.Tensor
    kinds: torch.Tensor
    colors: torch.Tensor
    presence: torch.Tensor
    sequences: list[Sequences]

    def map(self, transform: TensorMap) -> "Batch":
        """Apply a function to every tensor."""
        parts = [part.map(transform) for part in self.sequences]
        maps = transform(self.kinds), transform(self.colors), transform(self.presence)
        return Batch(transform(self.images), *maps, parts)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor."""
        yield from (self.images, self.kinds, self.colors, self.presence)
        for part in self.sequences:
            yield from part.tensors()

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device asynchronously."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Pin all tensors; called by the data loader."""
        return self.map(torch.Tensor.pin_memory)


def pad_examples(examples: list[EncodedExample], length: int, pad_id: int) -> Sequences:
    """Right-pad examples to `length`; an example that is longer leaves an empty sequence without labels."""
    ids = np.full((len(examples), length), pad_id)
    labels = np.full((len(examples), length), IGNORED_LABEL)
    context = np.ones(len(examples), dtype=int)
    for number, example in enumerate(examples):
        if len(example) <= length:
            context[number] = len(example.prompt_ids) - 1
            ids[number, : len(example)] = example.prompt_ids + example.input_ids
            labels[number, context[number] : len(example) - 1] = example.target_ids
    image_index = (
        None if examples[0].image_start is None else torch.tensor([example.image_index for example in examples])
    )
    start = examples[0].image_start or 0
    return Sequences(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(context), image_index, start)


def render_training_image(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Render a scene at a random size, resized to the model's input: uint8 [S, S, 3]."""
    size = int(rng.choice(RENDER_SIZES))
    image = render_sketch(scene, size, rng) if rng.random() < SKETCH_RATE else render_scene(scene, size)
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), 3))  # 3: bicubic


def make_batch(tokenizer: Any, layout: BatchLayout, lengths: list[int], step: int) -> Batch:
    """Build the batch of a step; deterministic for a layout and step."""
    rng = np.random.default_rng([layout.seed, step])
    scenes = [sample_scene(rng) for _ in range(layout.images)]
    maps = [segmentation_map(scene, layout.grid) for scene in scenes]
    groups = sample_buckets(tokenizer, layout, scenes, rng)
    return Batch(
        torch.from_numpy(np.stack([render_training_image(scene, rng) for scene in scenes])),
        torch.from_numpy(np.stack([kinds for kinds, _ in maps])),
        torch.from_numpy(np.stack([colors for _, colors in maps])),
        torch.from_numpy(np.stack([presence_map(scene, layout.presence_grid) for scene in scenes])),
        [pad_examples(group, length, tokenizer.pad_token_id) for group, length in zip(groups, lengths, strict=True)],
    )


class BatchDataset(IterableDataset[Batch]):
    """The batches of steps `first` to `last`, distributed round-robin over the workers."""

    def __init__(self, directory: Path, layout: BatchLayout, lengths: list[int], first: int, last: int) -> None:
        self.directory = directory
        self.layout = layout
        self.lengths = lengths
        self.steps = range(first, last)

    def __iter__(self) -> Iterator[Batch]:
        from model.hf.tokenization_chatglm import ChatGLMTokenizer

        torch.set_num_threads(1)
        tokenizer = ChatGLMTokenizer.from_pretrained(self.directory)
        worker = torch.utils.data.get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in self.steps[start::stride]:
            yield make_batch(tokenizer, self.layout, self.lengths, step)


def make_loader(dataset: BatchDataset, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """Return a loader that prepares batches in `workers` processes, in the order of steps."""
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, pin_memory=pin_memory, prefetch_factor=4 if workers else None
    )
