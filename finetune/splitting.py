"""Holding back a share of the training data for the evaluation."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from .errors import BadRowError, DataError
from .rows import Places, Rows


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
    places, selected = rows.places, Places()
    for place in chosen:
        selected.add(places.starts[place], places.ends[place], places.numbers[place])
    return Rows(rows.path, selected)
