"""Datasets of training examples: a file of rows -> examples -> batches.

    dataset = ChatDataset("dataset.json", tokenizer, image_length=32, image_size=224, max_length=512)
    for batch in load_batches(dataset, [[0, 1], [2, 3]], workers=2): ...

    python -m finetune.data check dataset.json      # print statistics and errors of a file

The formats of a file are described in finetune/rows.py, those of a row in finetune/formats.py.
"""

import mmap
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from torch.utils.data import Dataset

from model.aliases import former_keywords
from model.errors import ImageError
from model.images.preprocess import load_image, preprocess
from model.prompt import Tokenizer

from .batches import Batch, collate, load_batches
from .encoding import Example, TurnEncoder
from .errors import BadRowError, DataError
from .formats import Row
from .rows import OnBadRow, RowOffsets, Rows, iterate_usable_rows, raise_for_bad_rows, read_rows

__all__ = ["Batch", "ChatDataset", "Example", "Row", "Rows", "collate", "load_batches", "load_pixels", "read_rows"]


def load_pixels(path: Path, size: int) -> torch.Tensor:
    """Return the pixels [3, size, size] of an image file, preprocessed as in the chat.

    Raises:
        ImageError: the file cannot be read.
    """
    return preprocess(load_image(path), size)


class ChatDataset(Dataset[Example]):
    """The answers of a file of training data; each is an example, which is encoded when it is accessed.

    Only the offsets of the rows are in memory: some megabytes for 300,000 rows. The file must not change meanwhile.

    Args:
        path: a file of JSON lines or with a JSON list; or its `Rows`.
        tokenizer: a ChatGLMTokenizer.
        image_length: number of image embeddings per image.
        image_size: side of the model's input images, in pixels.
        max_length: maximum number of tokens of prompt and answer; longer examples are truncated by `TurnEncoder`.
        on_bad_row: "error" raises an error for rows that cannot be used, "skip" leaves them out.
        decode_images: whether examples have pixels; False if all image embeddings are cached.

    Attributes:
        is_cached: for each example whether its image's embedding is cached, so that it has no pixels. It is in shared
            memory, so that workers see changes.
        bad_rows: the rows left out because of their JSON or a missing image. A broken image is found only when it is
            decoded; then the next example replaces it, and lists its row in `Example.skipped`.
        ignored_keys: for each key that is ignored the number of rows that have it.
        lengths: for each example an upper estimate of its tokens: its characters and image embeddings.

    Raises:
        DataError: the file cannot be read, has no usable row, or has bad rows that are not to be skipped.
    """

    @former_keywords(decode_pictures="decode_images")
    def __init__(
        self,
        path: str | Path | Rows,
        tokenizer: Tokenizer,
        *,
        image_length: int,
        image_size: int,
        max_length: int,
        on_bad_row: OnBadRow = "error",
        decode_images: bool = True,
    ) -> None:
        self.rows = path if isinstance(path, Rows) else read_rows(path)
        self.encoder = TurnEncoder(tokenizer, image_length, max_length)
        self.image_size = image_size
        self.on_bad_row = on_bad_row
        self.decode_images = decode_images
        self.bad_rows: list[BadRowError] = []
        self.ignored_keys: Counter[str] = Counter()
        self.lengths = array("i")
        self._row_indices = array("i")  # for each example the index of its row
        self._turn_indices = array("i")  # for each example the index of its turn
        self._scan()
        # An anonymous mapping, which forked processes share; torch's shared memory would take space in /dev/shm.
        self.is_cached = torch.frombuffer(mmap.mmap(-1, len(self)), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._row_indices)

    def __getitem__(self, index: int) -> Example:
        """Encode an example, and decode its image.

        Raises:
            BadRowError: its image is broken, and bad rows are not to be skipped.
            DataError: every image is broken.
        """
        skipped: list[int] = []
        first = range(len(self))[index]
        for candidate in (*range(first, len(self)), *range(first)):
            try:
                return replace(self._load(candidate), skipped=tuple(skipped))
            except BadRowError as error:
                if self.on_bad_row == "error":
                    raise
                skipped.append(error.number)
        raise DataError(f"Every image of the training data {self.rows.path} is broken.")

    def encode(self, index: int) -> Example:
        """Encode an example without the pixels of its image."""
        return self.encoder.encode(self.rows[self._row_indices[index]], self._turn_indices[index])

    def _load(self, index: int) -> Example:
        example = self.encode(index)
        if example.image is None or not self.decode_images or self.is_cached[index]:
            return example
        try:
            return replace(example, pixels=load_pixels(example.image, self.image_size))
        except ImageError as error:
            raise BadRowError(example.row, str(error)) from error

    def _scan(self) -> None:
        """Read every row once, to index its answers and to collect errors."""
        for index, row in iterate_usable_rows(self.rows, self.bad_rows):
            self._add(index, row)
            self.ignored_keys.update(row.ignored_keys)
        raise_for_bad_rows(self.rows, self.bad_rows, self.on_bad_row)

    def _add(self, index: int, row: Row) -> None:
        length = self.encoder.image_length if row.image else 0
        for number, turn in enumerate(row.turns):
            length += len(turn.question) + len(turn.answer)
            if number >= row.first_trained_turn:
                self._row_indices.append(index)
                self._turn_indices.append(number)
                self.lengths.append(min(length, self.encoder.max_length))


def split_rows(files: Sequence[Rows], share: float, seed: int) -> tuple[list[Rows], list[Rows]]:
    """Split rows into training data and held-out data, and return both as lists of files without the empty ones.

    All rows with the same image are on the same side, so that no held-out image is trained on. The split depends only
    on the seed. Rows that cannot be used stay in the training data, where they are reported.

    Args:
        files: the rows of each file.
        share: fraction of the images, and of the rows without an image, to hold out; at least one is held out.
        seed: random seed.

    Raises:
        DataError: there would be no training data left.
    """
    groups: dict[Path | tuple[int, int], list[tuple[int, int]]] = {}
    for file, rows in enumerate(files):
        for index in range(len(rows)):
            try:
                image = rows[index].image
            except BadRowError:
                continue
            key = (file, index) if image is None else image.resolve()
            groups.setdefault(key, []).append((file, index))
    keys = list(groups)
    count = max(1, round(share * len(keys)))
    if count >= len(keys):
        paths = ", ".join(str(rows.path) for rows in files)
        raise DataError(
            f"The training data {paths} has too few images and rows without an image ({len(keys)}) to hold out "
            f"{share:.0%} of them. Add rows, or omit --valid-share."
        )
    held_out = {row for key in Random(seed).sample(keys, count) for row in groups[key]}

    def select(is_held_out: bool) -> list[Rows]:
        selected = (
            select_rows(rows, [index for index in range(len(rows)) if ((file, index) in held_out) is is_held_out])
            for file, rows in enumerate(files)
        )
        return [rows for rows in selected if len(rows)]

    return select(False), select(True)


def select_rows(rows: Rows, indices: Sequence[int]) -> Rows:
    """Return the rows of a file with the given indices."""
    offsets, selected = rows.offsets, RowOffsets()
    for index in indices:
        selected.add(offsets.starts[index], offsets.ends[index], offsets.numbers[index])
    return Rows(rows.path, selected)


if __name__ == "__main__":
    from .check import main

    sys.exit(main())
