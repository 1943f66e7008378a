"""The model that a benchmark's servers load from its name or directory."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.full_size import EMBEDDED_MODEL, FULL_SIZE, full_size_config, write_full_size


def add_served_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the model."""
    note = f"model, or {FULL_SIZE} with random weights, in temporary files"
    parser.add_argument("--from_pretrained", default=EMBEDDED_MODEL, metavar="NAME_OR_DIR", help=note)
    parser.add_argument("--layers", type=int, help=f"maximum number of layers of each component of {FULL_SIZE}")


@contextmanager
def served_model(options: argparse.Namespace) -> Iterator[str]:
    """Yield the name or directory of the model that the flags choose.

    The device of `options.device` draws the weights of a full-size model, whose directory is removed after the block.
    """
    if options.from_pretrained != FULL_SIZE:
        yield options.from_pretrained
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "model")
        write_full_size(directory, full_size_config(options.layers), torch.device(options.device))
        yield str(directory)
