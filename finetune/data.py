"""Training data: a file of rows -> examples -> batches.

    dataset = ChatDataset("dataset.json", tokenizer, image_length=32, image_size=224, max_length=512)
    for batch in load_batches(dataset, [[0, 1], [2, 3]], workers=2): ...

    python -m finetune.data check dataset.json      # what is in a file, and what is wrong with it

The shapes of a row are in finetune/formats.py, the formats of a file in finetune/rows.py.
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
    """Return the pixels [3, size, size] of a picture file, as the chat makes them.

    Raises:
        ImageError: it cannot be read.
    """
    return preprocess(load_image(path), size)


class ChatDataset(Dataset[Example]):
    """The answers of a file of training data, each an example that is encoded when it is asked for.

    Only the places of the rows are kept: 300,000 of them take some megabytes. The file must not change meanwhile.

    Args:
        path: JSON lines, or a JSON list; or its rows, where they have been found already.
        tokenizer: a ChatGLMTokenizer.
        image_length: vectors that stand for a picture.
        image_size: side of the square that the model reads, in pixels.
        max_length: the most tokens of prompt and answer; what does not fit is left out as `TurnEncoder` says.
        on_bad_row: "error" stops at rows that cannot be used, "skip" leaves them out.
        decode_pictures: whether examples come with pixels; whoever has all embeddings already needs none.

    Attributes:
        known: of each example whether its picture's embedding is known, so that it comes without pixels. It lies in
            shared memory: what is set here is seen by processes that read the data.
        bad_rows: the rows left out for what their JSON says or for a picture that is not there. A picture that is
            there but broken is found when it is decoded: then the next example stands for it, and says so.
        unread: of each key that is not read, how many rows have it.
        sizes: of each example about how many tokens it has, at most: its characters and its picture's vectors.

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
        self._row_indices = array("i")  # of each example the index of its row
        self._turn_indices = array("i")  # and of its turn
        self._scan()
        # Memory that forked processes share; torch's own would need room in /dev/shm.
        self.is_cached = torch.frombuffer(mmap.mmap(-1, len(self)), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._row_indices)

    def __getitem__(self, index: int) -> Example:
        """Encode an example, and decode its picture.

        Raises:
            BadRowError: its picture is broken, and bad rows are not to be skipped.
            DataError: every picture is broken.
        """
        skipped: list[int] = []
        first = range(len(self))[index]
        for place in (*range(first, len(self)), *range(first)):
            try:
                return replace(self._load(place), skipped=tuple(skipped))
            except BadRowError as error:
                if self.on_bad_row == "error":
                    raise
                skipped.append(error.number)
        raise DataError(f"Every picture of the training data {self.rows.path} is broken.")

    def encode(self, index: int) -> Example:
        """Encode an example without its picture's pixels."""
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
        """Read every row once, to find its answers and what is wrong."""
        for place, row in iterate_usable_rows(self.rows, self.bad_rows):
            self._add(place, row)
            self.ignored_keys.update(row.ignored_keys)
        raise_for_bad_rows(self.rows, self.bad_rows, self.on_bad_row)

    def _add(self, place: int, row: Row) -> None:
        length = self.encoder.image_length if row.image else 0
        for number, turn in enumerate(row.turns):
            length += len(turn.question) + len(turn.answer)
            if number >= row.first_trained_turn:
                self._row_indices.append(place)
                self._turn_indices.append(number)
                self.lengths.append(min(length, self.encoder.max_length))


def split_rows(files: Sequence[Rows], share: float, seed: int) -> tuple[list[Rows], list[Rows]]:
    """Return the rows to train on and those held back, file by file; files without held-back rows are left out there.

    All rows of a picture are on the same side, so that no held-back picture is trained on. The same seed holds back the
    same rows. Rows that cannot be used stay in the training data, which names them.

    Args:
        share: of the pictures, and of the rows without one, that is held back; at least one is.

    Raises:
        DataError: nothing would be left to train on.
    """
    groups: dict[Path | tuple[int, int], list[tuple[int, int]]] = {}
    for file, rows in enumerate(files):
        for place in range(len(rows)):
            try:
                image = rows[place].image
            except BadRowError:
                continue
            key = (file, place) if image is None else image.resolve()
            groups.setdefault(key, []).append((file, place))
    keys = list(groups)
    count = max(1, round(share * len(keys)))
    if count >= len(keys):
        raise DataError(
            f"The training data {files[0].path} has too few pictures ({len(keys)}) to hold {share:.0%} of them back. "
            "Add some, or leave out --valid-share."
        )
    held = {position for key in Random(seed).sample(keys, count) for position in groups[key]}

    def side(is_held: bool) -> list[Rows]:
        chosen = (
            select_rows(rows, [place for place in range(len(rows)) if ((file, place) in held) is is_held])
            for file, rows in enumerate(files)
        )
        return [rows for rows in chosen if len(rows)]

    return side(False), side(True)


def select_rows(rows: Rows, chosen: Sequence[int]) -> Rows:
    """Return some rows of a file."""
    places, selected = rows.offsets, RowOffsets()
    for place in chosen:
        selected.add(places.starts[place], places.ends[place], places.numbers[place])
    return Rows(rows.path, selected)


if __name__ == "__main__":
    from .check import main

    sys.exit(main())
