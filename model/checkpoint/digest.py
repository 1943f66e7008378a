"""A digest of a model, from samples of its weight files."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from .load import Checkpoint

# Of a weight file, this many blocks at equal distances are read, so that a model of 16 GB takes no minute.
BLOCKS, BLOCK_BYTES = 64, 16_384


def model_digest(checkpoint: Checkpoint) -> str:
    """Return a digest of a model's configuration and of samples of its weight files."""
    config = json.dumps(checkpoint.config, sort_keys=True, default=str)
    # The configuration of a SAT network names the directory of its tokenizer.
    digest = hashlib.sha256(config.replace(json.dumps(str(checkpoint.path))[1:-1], "").encode())
    for path in checkpoint.files:
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        for block in sample_blocks(path):
            digest.update(block)
    return digest.hexdigest()


def sample_blocks(path: Path, count: int = BLOCKS) -> Iterator[bytes]:
    """Yield `count` blocks of a file at equal distances, the first and the last one included."""
    last = max(0, path.stat().st_size - BLOCK_BYTES)
    with path.open("rb") as file:
        for number in range(count):
            file.seek(last * number // (count - 1))
            yield file.read(BLOCK_BYTES)
