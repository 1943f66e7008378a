"""Scenes and questions -> batches to train on, drawn and encoded in worker processes.

A picture gets several questions, so that it is drawn and encoded once for all of them. The prompt is the one that
the chat uses: `model.prompt`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from model.prompt import CHINESE, ENGLISH, Turn, encode_turns
from tiny.questions import Example, ask
from tiny.scenes import draw_scene, object_map, sample_scene

PICTURE_SIZE = 224
# Pictures come in other sizes too, so they are drawn in some and scaled, as the chat would.
DRAWN_SIZES = (224, 224, 224, 224, 224, 168, 280)
LONGEST = 224  # tokens of prompt and answer; the few longer examples are left out
TEXT_SHARE = 0.04  # examples without a picture, in sequences per sequence
LANGUAGES = {"zh": CHINESE, "en": ENGLISH}
IGNORED_LABEL = -100


@dataclass(frozen=True)
class Sizes:
    """How much is in a batch, and where the picture's labels lie.

    Attributes:
        pictures: pictures in a batch.
        questions: questions about each.
        groups: parts of similar length into which the questions about pictures are sorted.
        grid: cells of a row of the object map.
        most_things: things in a picture, at most.
    """

    pictures: int = 256
    questions: int = 4
    groups: int = 3
    grid: int = 16
    most_things: int = 3


@dataclass
class Sequences:
    """Token sequences of about one length, padded on the right.

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

    def to(self, device: torch.device) -> "Sequences":
        """Copy to a device without waiting."""
        moved = [None if t is None else t.to(device, non_blocking=True) for t in (self.ids, self.labels, self.context)]
        picture = None if self.picture is None else self.picture.to(device, non_blocking=True)
        return Sequences(*moved, picture, self.image_start)  # type: ignore[arg-type]

    def pin_memory(self) -> "Sequences":
        """Called by the data loader."""
        picture = None if self.picture is None else self.picture.pin_memory()
        return Sequences(
            self.ids.pin_memory(), self.labels.pin_memory(), self.context.pin_memory(), picture, self.image_start
        )


@dataclass
class Batch:
    """What one step trains on.

    Attributes:
        pictures: uint8 [P, S, S, 3].
        kinds, colours: [P, grid, grid], what each cell shows; -1 for none of the things.
        sequences: groups of token sequences.
    """

    pictures: torch.Tensor
    kinds: torch.Tensor
    colours: torch.Tensor
    sequences: list[Sequences]

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device without waiting."""
        tensors = [t.to(device, non_blocking=True) for t in (self.pictures, self.kinds, self.colours)]
        return Batch(*tensors, [part.to(device) for part in self.sequences])

    def pin_memory(self) -> "Batch":
        """Called by the data loader."""
        tensors = [t.pin_memory() for t in (self.pictures, self.kinds, self.colours)]
        return Batch(*tensors, [part.pin_memory() for part in self.sequences])


@dataclass(frozen=True)
class Row:
    """One encoded example: prompt and answer, and the picture that it is about."""

    prompt: list[int]
    answer: list[int]
    picture: int
    image_start: int | None


def encode_example(tokenizer: Any, example: Example, picture: int, image_length: int | None) -> Row:
    """Encode an example as the chat would, its answer ended by <eop>."""
    turns = [Turn(question, answer) for question, answer in example.history]
    prompt = encode_turns(tokenizer, turns, example.question, LANGUAGES[example.language], image_length)
    answer = [*tokenizer.encode_text(example.answer), tokenizer.eos_token_id]
    return Row(prompt.token_ids, answer, picture, prompt.image_start)


def stack_rows(rows: list[Row], pad_id: int) -> Sequences:
    """Pad rows on the right into one group."""
    longest = max(len(row.prompt) + len(row.answer) for row in rows)
    ids = np.full((len(rows), longest), pad_id)
    labels = np.full((len(rows), longest), IGNORED_LABEL)
    for number, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.answer)
        ids[number, :end] = row.prompt + row.answer
        labels[number, start - 1 : end - 1] = row.answer
    context = torch.tensor([len(row.prompt) - 1 for row in rows])
    picture = None if rows[0].image_start is None else torch.tensor([row.picture for row in rows])
    return Sequences(torch.from_numpy(ids), torch.from_numpy(labels), context, picture, rows[0].image_start or 0)


def draw_picture(scene: Any, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene in one of the sizes, scaled to the model's: uint8 [S, S, 3]."""
    picture = draw_scene(scene, int(rng.choice(DRAWN_SIZES)))
    return np.asarray(picture.resize((PICTURE_SIZE, PICTURE_SIZE), 3))  # 3: bicubic


def make_batch(tokenizer: Any, sizes: Sizes, image_length: int, seed: int, step: int) -> Batch:
    """Draw the batch of a step: the same for the same seed and step."""
    rng = np.random.default_rng([seed, step])
    scenes = [sample_scene(rng, sizes.most_things) for _ in range(sizes.pictures)]
    maps = [object_map(scene, sizes.grid) for scene in scenes]
    pictures = np.stack([draw_picture(scene, rng) for scene in scenes])
    rows = [
        encode_example(tokenizer, ask(scene, rng, language), number, image_length)
        for number, scene in enumerate(scenes)
        for language in ("zh", "en") * (sizes.questions // 2)
    ]
    rows = sorted((r for r in rows if len(r.prompt) + len(r.answer) <= LONGEST), key=lambda r: len(r.prompt + r.answer))
    bounds = np.linspace(0, len(rows), sizes.groups + 1).astype(int)
    groups = [rows[start:stop] for start, stop in pairwise(bounds)]
    blind = int(len(rows) * TEXT_SHARE / 2)
    groups.append(
        [encode_example(tokenizer, ask(None, rng, code), 0, None) for code in ("zh", "en") for _ in range(blind)]
    )
    return Batch(
        torch.from_numpy(pictures),
        torch.from_numpy(np.stack([kinds for kinds, _ in maps])),
        torch.from_numpy(np.stack([colours for _, colours in maps])),
        [stack_rows(group, tokenizer.pad_token_id) for group in groups if group],
    )


class Batches(IterableDataset[Batch]):
    """The batches of steps `first` to `last`, dealt out to the workers in turn."""

    def __init__(self, directory: Path, sizes: Sizes, image_length: int, seed: int, first: int, last: int) -> None:
        self.directory = directory
        self.sizes = sizes
        self.image_length = image_length
        self.seed = seed
        self.steps = range(first, last)

    def __iter__(self) -> Iterator[Batch]:
        from model.hf.tokenization_chatglm import ChatGLMTokenizer

        torch.set_num_threads(1)
        tokenizer = ChatGLMTokenizer.from_pretrained(self.directory)
        worker = torch.utils.data.get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in self.steps[start::stride]:
            yield make_batch(tokenizer, self.sizes, self.image_length, self.seed, step)


def load_batches(dataset: Batches, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """Draw batches ahead in `workers` processes; they come in the order of their steps."""
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, pin_memory=pin_memory, prefetch_factor=2 if workers else None
    )
