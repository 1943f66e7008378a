"""Time and memory of loading, by each loader and from each format, compared with SAT's own.

python -m benchmarks.loading                                   the published sizes with random weights, on a GPU
python -m benchmarks.loading --only 'sat/*' 'original/*'
python -m benchmarks.loading --device cpu                      visualglm-tiny, to try the script
python -m benchmarks.loading --device cpu --from_pretrained full-size --layers 1
python -m benchmarks.loading --list

Each stage is a fresh process. The files were just written and are therefore in the page cache: two directories of the
model, in --folder, which take 31 GB at full size. The time excludes all imports; ours includes the tokenizer.
    sat, hf           load_sat of a directory in SAT's format (one file) and in the Hugging Face format (shards)
    load_hf           load_hf of the latter
    int8, int4        load_sat of the former, quantized while loading; hf-int8, hf-int4: load_hf of the latter
    saved-int8, ...   load_sat and load_hf of directories that `convert --quant` has written
    quantize          in this process: quantize one layer and the head; the time of the published number of layers
    original          SAT's from_pretrained and load_checkpoint on the same network, built on its device
    original-cpu      the same, built on the CPU and then moved
Anonymous memory (RssAnon) is measured for the whole process, with Python, torch and the CUDA context. The target for
all our loaders is the largest tensor + 2 GB, beyond the model. The model counts where it resides: on a GPU, the host
memory must meet the target without it. A ratio of 1 or more meets the target.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.full_size import Source, add_model_arguments, full_size_config, write_full_size
from benchmarks.parts.loading_process import (
    ORIGINAL,
    ORIGINAL_CPU,
    OURS,
    OURS_HF,
    LoadingJob,
    LoadingResult,
    measure_loading,
)
from benchmarks.parts.machine import describe_machine, name_gpu, synchronize
from benchmarks.parts.table import Comparison, Row, Stage, add_table_arguments, at_most, run_table, show
from model.checkpoint.convert import convert
from model.checkpoint.meta_init import expected_shapes
from model.command_line import ArgumentParser, run_program
from model.kernels.torch_ops import BITS
from model.quantization.quantize import quantize_weight

MAX_EXTRA_GB = 2.0  # memory beyond the model and its largest tensor
FORMATS = ("hf", "sat")


class ModelDirectories:
    """The directories of one model, each written on first use.

    Args:
        source: source of the model.
        folder: parent folder of the directories.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.folder = folder

    def directory(self, format: str) -> Path:
        """Return the model's directory in a format, sat or hf."""
        path = self.folder / format
        if not path.exists():
            started = time.perf_counter()
            self.write(format, path)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            show(f"| {format}-written | | {size / 1e9:.3g} GB | | | in {time.perf_counter() - started:.1f} s |")
        return path

    def write(self, format: str, path: Path) -> None:
        """Write a directory; random weights are written in the Hugging Face format, and converted from it."""
        if format == "hf" and self.source.is_random:
            write_full_size(path, self.source.config, self.source.device)
        else:
            source = self.directory("hf") if self.source.is_random else self.source.name
            to, _, bits = format.partition("-int")
            convert(source, path, to, quant=int(bits) if bits else None)


class Plan:
    """The stages and comparisons for a model source.

    Args:
        source: source of the models.
        models: their directories.
    """

    def __init__(self, source: Source, models: ModelDirectories) -> None:
        self.source = source
        self.models = models
        self.on_gpu = source.device.type == "cuda"
        sizes = expected_shapes(source.config).values()
        self.largest_gb = max(shape.numel() for shape in sizes) * source.dtype.itemsize / 1e9

    def stages(self) -> list[Stage]:
        """Return all stages."""
        return [
            self.stage("sat", OURS, "sat"),
            self.stage("hf", OURS, "hf"),
            self.stage("load_hf", OURS_HF, "hf"),
            self.stage("int8", OURS, "sat", 8),
            self.stage("int4", OURS, "sat", 4),
            self.stage("hf-int8", OURS_HF, "hf", 8),
            self.stage("hf-int4", OURS_HF, "hf", 4),
            *(self.stage(f"saved-int{bits}", OURS, f"sat-int{bits}") for bits in BITS),
            *(self.stage(f"saved-hf-int{bits}", OURS_HF, f"hf-int{bits}") for bits in BITS),
            Stage("quantize", lambda: None, [self.quantizing_row(bits) for bits in BITS]),
            self.stage("original", ORIGINAL, "sat"),
            *([self.stage("original-cpu", ORIGINAL_CPU, "sat")] if self.on_gpu else []),
        ]

    def stage(self, name: str, loader: str, format: str, quant: int | None = None) -> Stage:
        """Return the stage of one loader and format."""
        is_ours = loader in (OURS, OURS_HF)
        target = at_most(round(self.largest_gb + MAX_EXTRA_GB, 2)) if is_ours else None
        bits = f", {quant} bits" if quant else ""
        description = f"{loader}, {format}{bits}"
        rows = [
            Row("seconds", f"{description}: loading time, s", seconds),
            Row("host", f"{description}: peak anonymous memory {self.memory_baseline}, GB", host, target),
            Row("gpu", f"{description}: peak GPU memory beyond the model, GB", gpu, target),
        ]
        return Stage(name, partial(self.load, loader, format, quant), rows if self.on_gpu else rows[:2])

    def quantizing_row(self, bits: int) -> Row:
        """Return the row that measures quantizing to `bits` bits."""
        return Row(f"int{bits}", f"quantize all layers to {bits} bits, s", lambda _: self.quantize_layer(bits))

    def quantize_layer(self, bits: int) -> tuple[float, str]:
        """Quantize one layer and the head; return the time of all layers and the head, in seconds."""
        config = full_size_config() if self.source.is_random else self.source.config
        width, inner = config["hidden_size"], config["inner_hidden_size"]
        shapes = [(3 * width, width), (width, width), (inner, width), (width, inner)]
        layer, head = sum(map(partial(self.time_quantizing, bits), shapes)), (config["vocab_size"], width)
        head_seconds = self.time_quantizing(bits, head)
        note = f"one layer {layer:.3g} s, the head {head_seconds:.3g} s"
        return config["num_layers"] * layer + head_seconds, note

    def time_quantizing(self, bits: int, shape: tuple[int, int]) -> float:
        """Return the time of quantizing one random weight, in seconds."""
        weight = torch.empty(shape, dtype=self.source.dtype, device=self.source.device).normal_(std=0.02)
        synchronize(self.source.device)
        started = time.perf_counter()
        quantize_weight(weight, bits)
        synchronize(self.source.device)
        return time.perf_counter() - started

    @property
    def memory_baseline(self) -> str:
        """The baseline of host memory, in words."""
        return "in total" if self.on_gpu else "beyond the model"

    def load(self, loader: str, format: str, quant: int | None) -> LoadingResult:
        """Load the model once."""
        dtype = str(self.source.dtype).removeprefix("torch.")
        directory = str(self.models.directory(format))
        return measure_loading(LoadingJob(loader, directory, str(self.source.device), dtype, quant))

    def comparisons(self) -> list[Comparison]:
        """Return the comparisons within a run."""
        rows = {"seconds": "time", "host": "anonymous memory", "gpu": "GPU memory beyond the model"}
        return [
            Comparison(f"{description}, {ours} and {other}", f"{ours}/{row}", f"{other}/{row}")
            for row, description in rows.items()
            for other in ("original", "original-cpu")
            for ours in ("sat", "hf", "load_hf")
        ]


def seconds(result: LoadingResult) -> tuple[float, str]:
    """Return the seconds of loading."""
    return result.seconds, f"{result.process_s:.1f} s with imports; {result.model / 1e9:.3g} GB"


def host(result: LoadingResult) -> tuple[float, str]:
    """Return the peak anonymous memory in GB, without the model if it resides there."""
    return result.host_gb, f"{result.peak / 1e9:.3g} GB, {result.before / 1e9:.3g} before loading began"


def gpu(result: LoadingResult) -> tuple[float, str]:
    """Return the peak GPU memory beyond the model, in GB."""
    return result.gpu_gb, f"{result.gpu_peak / 1e9:.4g} GB, the model {result.model / 1e9:.4g}"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_table_arguments(parser)
    parser.add_argument("--folder", type=Path, help="parent folder for the models (default: for temporary files)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print two tables."""
    options = parse_arguments()
    source = Source(options)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        plan = Plan(source, ModelDirectories(source, Path(folder)))
        described = f"{source.name}, {source.dtype}, largest tensor {plan.largest_gb:.3g} GB"
        heading = f"{describe_machine(name_gpu(source.device))}, {described}"
        run_table(options, heading, plan.stages(), plan.comparisons())


if __name__ == "__main__":
    sys.exit(run_program(main))
