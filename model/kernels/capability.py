"""What a device must be capable of for the kernels, and what some can do beyond that."""

import functools
import os

import torch

# GPUs of 2020 and later; bfloat16 and the copies that the kernels overlap came with them.
MIN_CAPABILITY = (8, 0)
# GPUs of 2022 and later, on which a kernel can start while the one before it ends; (99, 0) would turn that off.
PDL_CAPABILITY = (9, 0)


@functools.cache
def supports_pdl(device: torch.device) -> bool:
    """Whether a kernel may start while the one before it ends, and wait for its results by itself."""
    if device.type != "cuda" or is_interpreted():
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= PDL_CAPABILITY


def is_interpreted() -> bool:
    """Whether Triton's own switch for running kernels on a CPU is on."""
    return os.environ.get("TRITON_INTERPRET") == "1"
