"""Digests of training data: of the files with the rows, and of the images that the rows name."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.checkpoint.digest import BLOCK_BYTES, sample_blocks

from .errors import BadRowError
from .rows import iterate_usable_rows, read_rows
from .training_state import hash_file

# Of a larger image file, this many blocks at equal distances are read.
BLOCKS = 4
# Of more images, so many at equal distances are read; of the others, only the sizes.
MAX_READ_IMAGES = 20_000
MAX_THREADS = 16
DIGEST_DIGITS = 16
MISSING = "missing"
MAX_NAMED = 3


@dataclass(frozen=True)
class DataDigest:
    """The digest of a data file and of its images.

    The rows are read completely. An image counts with its name and the size of its file. Of at most 20,000 images, also
    the content: all of a file of up to 64 KiB, and four blocks of 16 KiB of a larger one, the first and the last bytes
    included. So a change that keeps the size of a large file and touches none of the blocks is not noticed.

    Attributes:
        path: the file, as it was given.
        rows: SHA-256 of the file.
        image_count: number of different images.
        images: SHA-256 of the images' digests.
        image_digests: the digest of each image by its name, relative to the file's folder; empty if there are more than
            20,000.
    """

    path: str
    rows: str
    image_count: int
    images: str
    image_digests: Mapping[str, str] = field(default_factory=dict)


def digest_data(path: Path) -> DataDigest:
    """Return the digest of a data file and of its images; see `DataDigest`.

    Raises:
        DataError: the file cannot be read.
    """
    rows, bad = read_rows(path), list[BadRowError]()
    images = list(dict.fromkeys(row.image for _, row in iterate_usable_rows(rows, bad) if row.image is not None))
    digests = digest_images(images, path.parent)
    whole = hashlib.sha256("".join(f"{name}\t{digest}\n" for name, digest in digests.items()).encode()).hexdigest()
    stored = digests if len(digests) <= MAX_READ_IMAGES else {}
    return DataDigest(str(path), hash_file(path), len(digests), whole, stored)


def digest_images(images: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return the digest of each image file by its name, relative to a folder if it lies there."""
    step = max(1, -(-len(images) // MAX_READ_IMAGES))
    with ThreadPoolExecutor(min(MAX_THREADS, 2 * (os.cpu_count() or 1))) as pool:  # file systems answer in parallel
        digests = pool.map(digest_image, images, (number % step == 0 for number in range(len(images))))
        names = (str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in images)
        return dict(zip(names, digests, strict=True))


def digest_image(path: Path, reads_content: bool) -> str:
    """Return the size of an image file, with a hash of its content if it is read; "missing" if it cannot be read."""
    try:
        size = path.stat().st_size
        if not reads_content:
            return str(size)
        is_small = size <= BLOCKS * BLOCK_BYTES
        digest = hashlib.sha256(path.read_bytes() if is_small else b"".join(sample_blocks(path, BLOCKS)))
    except OSError:
        return MISSING
    return f"{size}-{digest.hexdigest()[:DIGEST_DIGITS]}"


def to_entry(digest: DataDigest) -> dict[str, Any]:
    """Return a digest as an entry of a run's record, without the digests of single images."""
    return {
        "path": digest.path,
        "rows": digest.rows,
        "image_count": digest.image_count,
        "images": digest.images,
    }


def describe_change(before: Mapping[str, Any], images: Mapping[str, str], now: DataDigest) -> str:
    """Return how a data file differs from an entry of a record; "" if it does not.

    Args:
        before: the entry of `to_entry`.
        images: the digests of single images at that time; may be empty.
    """
    changes = []
    if before.get("rows") != now.rows:
        changes.append("its rows have changed")
    if before.get("images") != now.images:
        names = dict.fromkeys((*images, *now.image_digests)) if images and now.image_digests else {}
        changed = [name for name in names if images.get(name) != now.image_digests.get(name)]
        more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        named = f": {', '.join(changed[:MAX_NAMED])}{more}" if changed else ""
        changes.append(f"its images have changed{named}")
    return f"{now.path}: {'; '.join(changes)}" if changes else ""
