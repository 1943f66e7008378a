"""Training data: a file of rows -> examples -> batches.

    dataset = ChatDataset("dataset.json", tokenizer, image_length=32, image_size=224, max_length=512)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, num_workers=2, collate_fn=collate)

    python -m finetune.data check dataset.json      # what is in a file, and what is wrong with it

The shapes of a row are in finetune/shapes.py, the formats of a file in finetune/rows.py.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from model.errors import ImageError
from model.generation.decoder import answer_positions
from model.image import load_image, preprocess

from .encoding import NO_LOSS, Example, TurnEncoder
from .errors import BadRowError, DataError
from .rows import Rows, read_rows
from .shapes import Row

__all__ = ["Batch", "ChatDataset", "Example", "Row", "Rows", "collate", "load_pixels", "read_rows"]

OnBadRow = Literal["error", "skip"]
FILLER = 0  # the id after an example's end: any does, as it is neither seen nor learned
LISTED = 10  # bad rows named in a message


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
        path: JSON lines, or a JSON list.
        tokenizer: a ChatGLMTokenizer.
        image_length: vectors that stand for a picture.
        image_size: side of the square that the model reads, in pixels.
        max_length: the most tokens of prompt and answer; what does not fit is left out as `TurnEncoder` says.
        on_bad_row: "error" stops at rows that cannot be used, "skip" leaves them out.
        decode_pictures: whether examples come with pixels; whoever has all embeddings already needs none.

    Attributes:
        bad_rows: the rows left out for what their JSON says or for a picture that is not there. A picture that is
            there but broken is found when it is decoded: then the next example stands for it, and says so.
        sizes: of each example about how many tokens it has, at most: its characters and its picture's vectors.

    Raises:
        DataError: the file cannot be read, has no usable row, or has bad rows that are not to be skipped.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Any,
        *,
        image_length: int,
        image_size: int,
        max_length: int,
        on_bad_row: OnBadRow = "error",
        decode_pictures: bool = True,
    ) -> None:
        self.rows = read_rows(path)
        self.encoder = TurnEncoder(tokenizer, image_length, max_length)
        self.image_size = image_size
        self.on_bad_row = on_bad_row
        self.decode_pictures = decode_pictures
        self.bad_rows: list[BadRowError] = []
        self.sizes = array("i")
        self._places = array("i")  # of each example the index of its row
        self._turns = array("i")  # and of its turn
        self._scan()

    def __len__(self) -> int:
        return len(self._places)

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
        return self.encoder.encode(self.rows[self._places[index]], self._turns[index])

    def _load(self, index: int) -> Example:
        example = self.encode(index)
        if example.image is None or not self.decode_pictures:
            return example
        try:
            return replace(example, pixels=load_pixels(example.image, self.image_size))
        except ImageError as error:
            raise BadRowError(example.row, str(error)) from error

    def _scan(self) -> None:
        """Read every row once, to find its answers and what is wrong."""
        for place in range(len(self.rows)):
            try:
                row = self.rows[place]
            except BadRowError as error:
                self.bad_rows.append(error)
            else:
                self._add(place, row)
        if self.bad_rows and (self.on_bad_row == "error" or not self._places):
            raise DataError(describe_bad_rows(self.rows, self.bad_rows))

    def _add(self, place: int, row: Row) -> None:
        size = self.encoder.image_length if row.image else 0
        for number, turn in enumerate(row.turns):
            size += len(turn.question) + len(turn.answer)
            if number >= row.learned_from:
                self._places.append(place)
                self._turns.append(number)
                self.sizes.append(min(size, self.encoder.max_length))


def describe_bad_rows(rows: Rows, bad: Sequence[BadRowError]) -> str:
    """Return a message that names the first bad rows and what to do about them."""
    first = "\n".join(f"  {error}" for error in bad[:LISTED])
    more = f"\n  ... and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    if len(bad) == len(rows):
        return f"None of the {len(rows)} rows of the training data {rows.path} can be used:\n{first}{more}"
    return (
        f"{len(bad)} of the {len(rows)} rows of the training data {rows.path} cannot be used:\n{first}{more}\n"
        "Correct them, or leave them out with --on-bad-row skip."
    )


@dataclass
class Batch:
    """Examples side by side, padded on the right: contexts and pictures stand where they do in the chat.

    Attributes:
        input_ids: [B, T].
        labels: [B, T], not shifted; -100 where there is no loss.
        position_ids: [B, 2, T], those of the chat's prefill and decoding.
        attention_mask: bool [B, 1, T, T], True where a row sees a column; a row of padding sees something, too.
        image_starts: of each example where its picture's vectors go; -1 without a picture.
        pixels: float32 [P, 3, S, S], each picture of the batch once; None where none is decoded.
        pictures: of each example the index of its picture in `pixels` and `images`; -1 without a picture.
        images: the files of the P pictures.
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
    pictures: list[int]
    images: list[Path]
    context_lengths: list[int]
    rows: list[int]
    left_out: list[int]
    skipped: list[int]

    def pin_memory(self) -> "Batch":
        """Called by the data loader."""
        names = ("input_ids", "labels", "position_ids", "attention_mask", "pixels")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value.pin_memory() for name, value in tensors.items() if value is not None})


def collate(examples: Sequence[Example]) -> Batch:
    """Put examples side by side."""
    length = max(len(example.input_ids) for example in examples)
    pixels = {example.image: example.pixels for example in examples if example.image is not None}
    images = list(pixels)
    decoded = [picture for picture in pixels.values() if picture is not None]
    return Batch(
        input_ids=torch.stack([pad(example.input_ids, length, FILLER) for example in examples]),
        labels=torch.stack([pad(example.labels, length, NO_LOSS) for example in examples]),
        position_ids=torch.stack([positions(example, length) for example in examples]),
        attention_mask=torch.stack([visible(example, length) for example in examples])[:, None],
        image_starts=[-1 if example.image_start is None else example.image_start for example in examples],
        pixels=torch.stack(decoded) if decoded else None,
        pictures=[-1 if example.image is None else images.index(example.image) for example in examples],
        images=images,
        context_lengths=[example.context_length for example in examples],
        rows=[example.row for example in examples],
        left_out=[example.left_out for example in examples],
        skipped=[row for example in examples for row in example.skipped],
    )


def pad(ids: list[int], length: int, filler: int) -> torch.Tensor:
    """Return the ids [length], the end filled up."""
    return torch.tensor(ids + [filler] * (length - len(ids)))


def positions(example: Example, length: int) -> torch.Tensor:
    """Return the position ids [2, length] of an example; those of padding go on."""
    return answer_positions(example.context_length + 1, length, torch.device("cpu"))


def visible(example: Example, length: int) -> torch.Tensor:
    """Return [length, length], True where a row sees a column: the context, itself, and what is before it."""
    place = torch.arange(length)
    return (place < example.context_length) | (place <= place[:, None])
