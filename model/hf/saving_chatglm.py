"""What `save_pretrained` adds to a directory: the code that loads it elsewhere, and the umask's file mode.

In an export this module finds no exporter: there transformers copies the code itself.
"""

import importlib
import importlib.util
import os
from pathlib import Path

from ..file_mode import apply_umask

EXPORT_MODULE = ".export"


def add_code(directory: str | os.PathLike[str], exporter: str) -> None:
    """Call the function `exporter` of the export module, if there is one, for a directory that was just saved."""
    if __package__ and importlib.util.find_spec(EXPORT_MODULE, __package__):
        getattr(importlib.import_module(EXPORT_MODULE, __package__), exporter)(directory)


def apply_umask_to_weights(directory: str | os.PathLike[str]) -> None:
    """Give the weight files of a saved model the mode that the umask grants."""
    for path in Path(directory).glob("model*.safetensors"):
        apply_umask(path)
