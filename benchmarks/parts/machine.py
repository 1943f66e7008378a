"""Describes the machine of a measurement; helpers for all scripts."""

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
EXAMPLE_IMAGE = ROOT / "examples" / "scene.png"


def describe_machine(gpu: str = "no GPU") -> str:
    """Describe hardware, versions and date of a measurement in one line."""
    info, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    gib = int(memory.read_text().split()[1]) / 2**20
    versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    return f"{os.cpu_count()} cores ({names[0]}), {gib:.0f} GiB, {gpu}, {versions}, {datetime.date.today()}"


def name_gpu(device: torch.device) -> str:
    """Return the name of a GPU for `describe_machine`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"


def synchronize(device: torch.device) -> None:
    """Wait for all work of a GPU; no-op on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rate(device: torch.device) -> float:
    """Return the bytes/s read and written by a copy much larger than the caches."""
    source = torch.ones(2**32 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(6):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * source.nbytes / statistics.median(seconds[1:])


def min_int(least: int) -> Callable[[str], int]:
    """Return an argparse type: an integer of at least `least`."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; it should be at least {least}.")
        return value

    return whole_number
