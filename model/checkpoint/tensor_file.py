"""Write tensors into one safetensors file."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..file_mode import apply_umask


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` into the safetensors file `path`, readable to whom the umask allows it.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{error}") from error
    apply_umask(path)
