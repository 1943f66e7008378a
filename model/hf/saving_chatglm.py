"""Adds the code that loads a directory elsewhere to what `save_pretrained` writes there.

In an export this module finds no exporter: there transformers copies the code itself. Imports nothing of this package,
because transformers 4 does not find modules that are only imported by another one.
"""

import importlib
import importlib.util
import os

EXPORT_MODULE = ".export"


def add_code(directory: str | os.PathLike[str], exporter: str) -> None:
    """Call the function `exporter` of the export module, if there is one, for a directory that was just saved."""
    if __package__ and importlib.util.find_spec(EXPORT_MODULE, __package__):
        getattr(importlib.import_module(EXPORT_MODULE, __package__), exporter)(directory)
