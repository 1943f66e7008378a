"""Find a model's files by its name, and load their tensors under SAT's names."""

from .load import Checkpoint, load_tensors, open_checkpoint
from .resolve import find_vocabulary, resolve
from .save import save_hf, save_sat

__all__ = ["Checkpoint", "find_vocabulary", "load_tensors", "open_checkpoint", "resolve", "save_hf", "save_sat"]
