"""From a model's name to its files, and from its files to tensors with SAT names."""

from .load import Checkpoint, load_tensors, open_checkpoint
from .resolve import find_vocabulary, resolve
from .save import save_hf, save_sat

__all__ = ["Checkpoint", "find_vocabulary", "load_tensors", "open_checkpoint", "resolve", "save_hf", "save_sat"]
