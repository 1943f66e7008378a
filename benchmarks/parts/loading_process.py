"""Loads a model in a subprocess, whose memory the parent monitors.

This module is both sides: `measure_loading` starts the process, and `main` runs in it.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts.machine import ROOT, synchronize

TIMEOUT_S = 600
POLL_S = 0.01
IMPORTS = ("model.loading", "model.hf")
OURS, OURS_HF, ORIGINAL, ORIGINAL_CPU = "load_sat", "load_hf", "SAT", "SAT, built on the CPU"


@dataclass(frozen=True)
class LoadingJob:
    """What to load in a subprocess.

    Attributes:
        loader: one of LOADERS.
        directory: directory of the model.
        device, dtype, quant: see `load_sat`; SAT's loader has no quantization.
    """

    loader: str
    directory: str
    device: str
    dtype: str
    quant: int | None = None


@dataclass(frozen=True)
class LoadingResult:
    """Time and memory of loading; memory in bytes.

    Attributes:
        seconds: loading time; `process_s` is that of the whole process, with imports.
        model: size of weights and buffers.
        before: anonymous memory (RssAnon) before loading, with imports and the CUDA context.
        peak: peak anonymous memory of the process.
        gpu_peak: peak GPU memory allocated by torch; 0 without a GPU.
        on_gpu: whether the model resides on a GPU.
    """

    seconds: float
    process_s: float
    model: int
    before: int
    peak: int
    gpu_peak: int
    on_gpu: bool

    @property
    def host_gb(self) -> float:
        """The peak anonymous memory in GB, without the model if it resides there."""
        return (self.peak - (0 if self.on_gpu else self.model)) / 1e9

    @property
    def gpu_gb(self) -> float:
        """The peak GPU memory beyond the model, in GB."""
        return (self.gpu_peak - self.model) / 1e9


def anonymous_bytes(process: int | str = "self") -> int:
    """Return the anonymous memory (RssAnon) of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def measure_loading(job: LoadingJob) -> LoadingResult:
    """Load in a fresh process, sampling its memory every POLL_S seconds.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    command = [sys.executable, "-m", "benchmarks.parts.loading_process", json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=errors)
        peak = peak_memory(process, started + TIMEOUT_S)
        spent = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            failed = errors.read()
            sys.stderr.write(failed)
            raise RuntimeError((failed.strip().splitlines() or [f"ended with {process.returncode}"])[-1])
        return LoadingResult(process_s=spent, peak=peak, **json.loads(output.read().splitlines()[-1]))


def peak_memory(process: "subprocess.Popen[bytes]", deadline: float) -> int:
    """Wait for a process; return its peak anonymous memory."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        if time.perf_counter() > deadline:
            process.kill()
        time.sleep(POLL_S)
    return peak


def load_ours(job: LoadingJob) -> Any:
    """Load by `load_sat`; return the network."""
    from model import load_sat

    return load_sat(job.directory, device=job.device, dtype=job.dtype, quant=job.quant).network


def load_ours_hf(job: LoadingJob) -> Any:
    """Load by `load_hf`; return the network."""
    from model import load_hf

    return load_hf(job.directory, device=job.device, dtype=job.dtype, quant=job.quant).network


def load_original(job: LoadingJob, on_device: bool = True) -> Any:
    """Load by SAT's own `from_pretrained` and `load_checkpoint`, as the original's programs do.

    Args:
        on_device: build the network on its device, as the original's cli_demo.py does, or on the CPU and then move it,
            as its web demo and API do.
    """
    from model import VisualGLMModel

    # isort: split
    from sat.model.base_model import BaseModel

    args = Namespace(
        fp16=job.dtype == "float16",
        bf16=job.dtype == "bfloat16",
        skip_init=True,
        use_gpu_initialization=on_device and job.device != "cpu",
        device=job.device,
    )
    load: Callable[..., Any] = BaseModel.from_pretrained_base.__func__  # type: ignore[attr-defined]
    network, _ = load(VisualGLMModel, job.directory, args)
    return network.to(job.device).eval()


LOADERS: dict[str, Callable[[LoadingJob], Any]] = {
    OURS: load_ours,
    OURS_HF: load_ours_hf,
    ORIGINAL: load_original,
    ORIGINAL_CPU: lambda job: load_original(job, on_device=False),
}


def load(job: LoadingJob) -> dict[str, Any]:
    """Load in this process; return the measurements."""
    for name in IMPORTS:  # for every loader, so that imports are not measured
        importlib.import_module(name)
    device = torch.device(job.device)
    torch.empty(1, device=device)  # creates the CUDA context
    before, started = anonymous_bytes(), time.perf_counter()
    network = LOADERS[job.loader](job)
    synchronize(device)
    seconds = time.perf_counter() - started
    on_gpu = device.type == "cuda"
    return {
        "seconds": seconds,
        "model": sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())),
        "before": before,
        "gpu_peak": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
        "on_gpu": on_gpu,
    }


def main() -> None:
    """Load as the parent asks, and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="a LoadingJob as JSON")
    print(json.dumps(load(LoadingJob(**json.loads(parser.parse_args().job)))), flush=True)


if __name__ == "__main__":
    main()
