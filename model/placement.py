"""Choose the device, the dtype and the CPU threads of a model."""

import re

import torch

from .checkpoint.sizes import choose_cpu_dtype
from .environment import read_variable
from .errors import SettingError
from .names import DTYPE_NAMES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}
SMALL_PARAMETERS = 50_000_000
DEVICE = re.compile(r"cpu(:0)?|cuda(:[0-9]{1,3})?")


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`, by default the fastest device of this machine.

    Args:
        name: cpu, cuda or cuda:N; None for a GPU if there is one, else the CPU.

    Raises:
        SettingError: the device does not exist or cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(name)  # a torch.device has the same names
    if DEVICE.fullmatch(name) is None:
        is_gpu = "gpu" in name.lower()
        reason = "a GPU is called cuda, the second one cuda:1" if is_gpu else "only cpu and cuda are supported"
        raise SettingError(f"The device {name!r} is not known: {reason}. Try cpu, or cuda on a GPU.")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            found = f"only {count} (cuda:0 is the first)" if count else "no GPU that PyTorch can use"
            raise SettingError(f"There is no device {name!r} here: this machine has {found}. Try cpu, or another GPU.")
        try:
            torch.empty(0, device=device)
        except RuntimeError as error:  # the GPU is broken, or used exclusively by another program
            reason = str(error).splitlines()[0]
            raise SettingError(f"The device {name!r} cannot be used: {reason}. Try cpu, or another GPU.") from error
    return device


def choose_dtype(name: str | None, device: torch.device, parameters: int) -> torch.dtype:
    """Return the dtype called `name`, by default the one that suits the device and the model's size.

    Raises:
        SettingError: the name is not in `DTYPES`.
    """
    if name is not None:
        if name not in DTYPES:
            raise SettingError(f"dtype is {name!r}; it should be one of {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type != "cpu":
        return torch.float16
    return choose_cpu_dtype(parameters)


def limit_threads(parameters: int) -> None:
    """Set torch to one CPU thread for a small model, unless OMP_NUM_THREADS is set.

    The matrices are too small to gain much from more threads. And as soon as another program takes a core, threads
    that wait for each other lose milliseconds in each of hundreds of operations.
    """
    if parameters < SMALL_PARAMETERS and read_variable("OMP_NUM_THREADS") is None:
        torch.set_num_threads(1)
