"""Loading a model in a process of its own, whose memory its parent watches.

This module is both sides: `measure_loading` starts it, and in the process `main` loads.
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

SECONDS = 600  # that a process may take
POLL_S = 0.01
IMPORTED = ("model.job", "model.hf")
OURS, OURS_HF, ORIGINAL, ORIGINAL_CPU = "load_sat", "load_hf", "SAT", "SAT, built on the CPU"


@dataclass(frozen=True)
class LoadingJob:
    """What a process is to load.

    Attributes:
        way: one of WAYS.
        directory: of the model.
        device, dtype, quant: as those of `load_sat`; SAT knows no bits.
    """

    loader: str
    directory: str
    device: str
    dtype: str
    quant: int | None = None


@dataclass(frozen=True)
class LoadingResult:
    """What loading took; memory in bytes.

    Attributes:
        seconds: of the loading; `process_s` of the whole process, imports and all.
        model: the weights and buffers, where `on_gpu` says.
        before: anonymous memory (RssAnon) when loading began, imports and CUDA's context among it.
        peak: the most anonymous memory of the process.
        gpu_peak: the most that torch allocated on a GPU; 0 without one.
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
        """The most anonymous memory, without the model where it lies there, in GB."""
        return (self.peak - (0 if self.on_gpu else self.model)) / 1e9

    @property
    def gpu_gb(self) -> float:
        """The most memory on the GPU beyond the model, in GB."""
        return (self.gpu_peak - self.model) / 1e9


def anonymous_bytes(process: int | str = "self") -> int:
    """Return the anonymous memory (RssAnon) of a process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def measure_loading(job: LoadingJob) -> LoadingResult:
    """Load in a fresh process, looking at its memory every POLL_S seconds.

    Raises:
        RuntimeError: the process failed; its last line says why.
    """
    command = [sys.executable, "-m", "benchmarks.parts.loading_process", json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=errors)
        peak = peak_memory(process, started + SECONDS)
        spent = time.perf_counter() - started
        said.seek(0)
        errors.seek(0)
        if process.returncode:
            failed = errors.read()
            sys.stderr.write(failed)
            raise RuntimeError((failed.strip().splitlines() or [f"ended with {process.returncode}"])[-1])
        return LoadingResult(process_s=spent, peak=peak, **json.loads(said.read().splitlines()[-1]))


def peak_memory(process: "subprocess.Popen[bytes]", deadline: float) -> int:
    """Wait for a process; return the most anonymous memory that it was seen with."""
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
    """Load by SAT's own `from_pretrained` and `load_checkpoint`, as the original's programs ask for it.

    Args:
        on_device: whether the network is built on its device, as by the original's cli_demo.py, or on the CPU and then
            moved, as by its web demo and API.
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
    """Load in this process; return what it took."""
    for name in IMPORTED:  # by every way, so that none is measured with them
        importlib.import_module(name)
    device = torch.device(job.device)
    torch.empty(1, device=device)  # makes CUDA's context
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
    """Load what the parent asks for, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loading", help="a Loading, as JSON")
    print(json.dumps(load(LoadingJob(**json.loads(parser.parse_args().job)))), flush=True)


if __name__ == "__main__":
    main()
