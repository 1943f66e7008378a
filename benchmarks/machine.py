"""The machine that a measurement was made on, and what its scripts share."""

import argparse
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples" / "scene.png"


def describe_machine(gpu: str = "no GPU") -> str:
    """Say in one line on what, with what and when a measurement was made."""
    info, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    gib = int(memory.read_text().split()[1]) / 2**20
    versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    return f"{os.cpu_count()} cores ({names[0]}), {gib:.0f} GiB, {gpu}, {versions}, {datetime.date.today()}"


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of command line numbers that refuses smaller ones."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; it should be at least {least}.")
        return value

    return whole_number
