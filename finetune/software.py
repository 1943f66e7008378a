"""The machine and the versions that a training runs with, for its record."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "transformers", "SwissArmyTransformer", "deepspeed", "bitsandbytes", "numpy", "Pillow")
TIMEOUT_S = 20
HASH_DIGITS = 12


def read_versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that are installed, and of this program."""
    versions = {"python": platform.python_version()}
    for name in ("visualglm", *LIBRARIES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = read_commit(ROOT)
    return {**versions, "commit": commit} if commit else versions


def read_commit(folder: Path) -> str:
    """Return the git commit of a checkout; "" if the folder is none.

    If tracked files differ from the commit, "+changes-" and a hash of the differences follow.
    """
    if not (folder / ".git").exists():
        return ""
    commit = run_git(folder, "rev-parse", "HEAD").decode().strip()
    changes = run_git(folder, "diff", "HEAD", "--binary") if commit else b""
    return f"{commit}+changes-{hashlib.sha256(changes).hexdigest()[:HASH_DIGITS]}" if changes else commit


def run_git(folder: Path, *words: str) -> bytes:
    """Return the output of a git command; nothing if git is missing or fails."""
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the processor, cores, memory and GPUs, and what of them the training uses."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": read_processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": read_memory_gb(),
        "gpus": gpus,
        "device": str(device),
    }


def read_processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def read_memory_gb() -> float | None:
    """Return the size of the main memory in GB; None if the system does not tell it."""
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
