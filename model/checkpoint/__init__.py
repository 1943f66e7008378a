"""From a model's name to its files, and from its files to tensors with SAT names."""

from .load import Checkpoint, load_tensors, open_checkpoint
from .resolve import resolve

__all__ = ["Checkpoint", "load_tensors", "open_checkpoint", "resolve"]
