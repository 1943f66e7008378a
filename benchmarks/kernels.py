"""GPU time of matrix products for each candidate launch configuration, compared with torch in float16.

python -m benchmarks.kernels                                     everything, in about four minutes
python -m benchmarks.kernels --only int4 --rows 1                one weight kind, one row of activations
python -m benchmarks.kernels --in-use                            only the current configurations, in seconds
python -m benchmarks.kernels --write model/kernels/autotune.py   write the best configurations

The matrices are those of the full-size language model. Several copies of each are used in turn, so that none is in the
cache. The product of each configuration is compared with float32 before it is timed; failing ones are reported and
skipped.
"""

import argparse
import functools
import math
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.parts.kernel_candidates import GROUP, MatmulCase, candidate_configs
from benchmarks.parts.machine import copy_rate, describe_machine, min_int
from model.command_line import ArgumentParser, run_program
from model.kernels import autotune
from model.kernels.autotune import (
    MATMUL_CONFIGS,
    MATVEC_CONFIGS,
    MAX_ROWS,
    ROW_BUCKETS,
    KernelConfig,
    row_bucket,
)
from model.kernels.dispatch import has_triton
from model.kernels.epilogue import Epilogue
from model.kernels.norm import layer_norm
from model.kernels.torch_ops import dequantize

WeightTensors = tuple[torch.Tensor, ...]
BITS = {"dense": 16, "int8": 8, "int4": 4}
NUM_LAYERS = 28
LAYER_SHAPES = ((12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384))
LM_HEAD_SHAPE = (130528, 4096)
# Bytes of other weights read between two uses of a weight: several times the cache.
CACHE_FLUSH_BYTES = 2**28
# Duration of one of ten graph replays; at a few milliseconds, results vary by less than a percent.
REPLAY_MS = 4
MAX_RELATIVE_ERROR = 1e-3
# Total of all matrices for one row, ms; the floor is reading them at the copy rate of the machine.
TARGET_MS = {"dense": 3.09, "int8": 1.7, "int4": 1.1}
# Share of the time limit for compiling in parallel.
COMPILE_TIME_SHARE = 0.5
Table = Mapping[tuple[str, *tuple[int, ...]], KernelConfig]
TABLES = re.compile(
    r"# One row of activations\.\nMATVEC_CONFIGS: .*?\n}\n# Several rows: .*?\nMATMUL_CONFIGS: .*?}\n", re.DOTALL
)


@functools.lru_cache(maxsize=2)
def draw_weights(kind: str, outputs: int, inputs: int) -> list[WeightTensors]:
    """Sample more copies of a weight than the cache can hold."""
    copies = math.ceil(CACHE_FLUSH_BYTES / (outputs * inputs * BITS[kind] / 8))
    return [draw_weight(kind, outputs, inputs) for _ in range(copies)]


def draw_weight(kind: str, outputs: int, inputs: int) -> WeightTensors:
    """Sample the tensors of one weight."""
    if kind == "dense":
        return (torch.randn(outputs, inputs, device="cuda", dtype=torch.float16) * 0.02,)
    numbers = torch.randint(-128, 128, (outputs, inputs * BITS[kind] // 8), device="cuda", dtype=torch.int8)
    scale = torch.rand(outputs, device="cuda") * 1e-3 + 1e-4
    if kind == "int8":
        return numbers, scale
    return numbers, scale, torch.rand(outputs, inputs // GROUP, 2, device="cuda").bfloat16()


def draw_rows(case: MatmulCase) -> torch.Tensor:
    """Sample activations, the same for each kind."""
    generator = torch.Generator("cuda").manual_seed(0)
    return torch.randn(case.rows, case.inputs, device="cuda", generator=generator).half()


def dequantized_weight(kind: str, parts: WeightTensors) -> torch.Tensor:
    """Return a weight in float32."""
    if kind == "dense":
        return parts[0].float()
    return dequantize(parts[0], parts[1], parts[2] if kind == "int4" else None, BITS[kind], torch.float32)


def try_config(case: MatmulCase, config: KernelConfig) -> str:
    """Compile and run a product in a subprocess; return the error, or ""."""
    from model.kernels.triton import launch

    try:
        x = draw_rows(case)
        launch.multiply(case.kind, x, draw_weight(*case[:3]), Epilogue(), None, config)
        torch.cuda.synchronize()
    except Exception as error:  # a configuration may exceed the resources of the GPU
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def compile_all(
    jobs: list[tuple[MatmulCase, KernelConfig]], workers: int, seconds: float
) -> set[tuple[MatmulCase, KernelConfig]]:
    """Compile every kernel into Triton's cache in parallel; return the failing jobs.

    Jobs that are not finished after `seconds` are compiled when they are measured.
    """
    failed = set()
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for job, error in zip(jobs, pool.map(try_config, *zip(*jobs, strict=True), timeout=seconds), strict=True):
            if error:
                failed.add(job)
                print(f"skipped: {job[0]} {job[1]}: {error}", flush=True)
    except Exception as error:  # not fatal: compiling in this process is only slower
        print(f"compiling the rest in this process: {error!r}", flush=True)
    pool.shutdown(wait=False, cancel_futures=True)
    return failed


def time_us(run: Callable[[], object], calls: int) -> float:
    """Return the microseconds of each of the `calls` calls that `run` makes."""
    import triton

    torch.cuda.synchronize()
    return triton.testing.do_bench_cudagraph(run, rep=REPLAY_MS, return_mode="median") * 1000 / calls


def run_kernels(
    case: MatmulCase, config: KernelConfig, x: torch.Tensor, weights: list[WeightTensors], out: torch.Tensor
) -> None:
    """Multiply x by each weight."""
    from model.kernels.triton import launch

    for parts in weights:
        launch.multiply(case.kind, x, parts, Epilogue(), out, config)


def run_torch(x: torch.Tensor, weights: list[WeightTensors]) -> None:
    """Multiply x by each weight with torch."""
    for parts in weights:
        F.linear(x, parts[0])


@functools.cache
def torch_us(outputs: int, inputs: int, rows: int) -> float:
    """Return torch's time with a float16 weight."""
    weights = draw_weights("dense", outputs, inputs)
    return time_us(
        functools.partial(run_torch, draw_rows(MatmulCase("dense", outputs, inputs, rows)), weights), len(weights)
    )


def measure(case: MatmulCase, configs: list[KernelConfig], until: float) -> dict[KernelConfig, float]:
    """Return the microseconds of each correct configuration; after the time `until`, only of the first."""
    weights, x = draw_weights(*case[:3]), draw_rows(case)
    expected = x.float() @ dequantized_weight(case.kind, weights[0]).t()
    times: dict[KernelConfig, float] = {}
    for config in configs:
        if times and time.monotonic() > until:
            break
        out = torch.full_like(expected, torch.nan, dtype=x.dtype)
        try:
            run_kernels(case, config, x, weights[:1], out)
            error = float((out.float() - expected).norm() / expected.norm())
            if not error < MAX_RELATIVE_ERROR:
                raise ValueError(f"the relative error of the product is {error:.2g}")
            times[config] = time_us(functools.partial(run_kernels, case, config, x, weights, out), len(weights))
        except Exception as error:  # one configuration must not end the sweep
            print(f"skipped: {case} {config}: {error}".splitlines()[0], flush=True)
    return times


def format_row(case: MatmulCase, times: dict[KernelConfig, float], first: KernelConfig) -> str:
    """Format a case as a row of the table."""
    best = min(times, key=lambda config: times[config])
    size = sum(part.nbytes for part in draw_weights(*case[:3])[0])
    used = f"{times[first]:.2f}" if first in times else "-"
    numbers = f"{times[best]:.2f} | {size / times[best] / 1e3:,.0f} | {tuple(best)} | {used} | {len(times)}"
    torchs = torch_us(*case[1:])
    name = f"| {case.kind} | {case.outputs} x {case.inputs} | {case.rows} |"
    return f"{name} {numbers} | {torchs:.2f} | {torchs / times[best]:.2f} |"


def print_totals(best: dict[MatmulCase, float], rate: float) -> None:
    """Print the total time of all matrices of a decode step, if all were measured."""
    for kind, rows in dict.fromkeys((case.kind, case.rows) for case in best):
        cases = [MatmulCase(kind, *shape, rows) for shape in (*LAYER_SHAPES, LM_HEAD_SHAPE)]
        if not all(case in best for case in cases):
            continue
        total = (NUM_LAYERS * sum(best[case] for case in cases[:-1]) + best[cases[-1]]) / 1e3
        torchs = (NUM_LAYERS * sum(torch_us(*case[1:]) for case in cases[:-1]) + torch_us(*cases[-1][1:])) / 1e3
        weights = (
            NUM_LAYERS * sum(outputs * inputs for outputs, inputs in LAYER_SHAPES) + LM_HEAD_SHAPE[0] * LM_HEAD_SHAPE[1]
        )
        floor = weights * (BITS[kind] / 8 + (4 / GROUP if kind == "int4" else 0)) / rate / 1e6
        target = f", target {TARGET_MS[kind]}" if rows == 1 else ""
        print(
            f"{kind}, {rows} rows: {total:.2f} ms per step; floor {floor:.2f}{target}, torch {torchs:.2f}", flush=True
        )


def print_norms() -> None:
    """Print the time of layer norm, with data in the cache."""
    for rows in (1, 16, 128, 256, 1024):
        x, weight = (
            torch.randn(rows, LM_HEAD_SHAPE[1], device="cuda").half(),
            torch.ones(LM_HEAD_SHAPE[1], device="cuda").half(),
        )
        ours = time_us(functools.partial(layer_norm, x, weight, weight, 1e-5), 1)
        torchs = time_us(functools.partial(F.layer_norm, x, x.shape[-1:], weight, weight, 1e-5), 1)
        print(f"layer norm, {rows} x {LM_HEAD_SHAPE[1]}: {ours:.2f} us, torch {torchs:.2f}", flush=True)


def sweep(options: argparse.Namespace) -> dict[MatmulCase, KernelConfig]:
    """Measure and print every case; return the best configurations."""
    until = time.monotonic() + options.seconds
    cases = [
        MatmulCase(kind, *shape, rows)
        for kind in options.only
        for shape in (*LAYER_SHAPES, LM_HEAD_SHAPE)
        for rows in options.rows
        if rows <= MAX_ROWS[kind]
    ]
    configs = {case: candidate_configs(case)[: 1 if options.in_use else None] for case in cases}
    jobs = [(case, config) for case in cases for config in configs[case]]
    failed = compile_all(jobs, options.workers, options.seconds * COMPILE_TIME_SHARE) if options.workers else set()
    print("| kind | weight | rows | us | GB/s | best config | us, current | tried | torch float16, us | speedup |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    measured = {}
    for case in cases:
        times = measure(case, [config for config in configs[case] if (case, config) not in failed], until)
        if times:
            measured[case] = min((us, config) for config, us in times.items())
            print(format_row(case, times, configs[case][0]), flush=True)
    print_totals({case: us for case, (us, _) in measured.items()}, copy_rate(torch.device("cuda")) / 1e9)
    return {case: config for case, (_, config) in measured.items()}


def table_source(best: dict[MatmulCase, KernelConfig]) -> str:
    """Return the source of model/kernels/autotune.py with the configurations of `best` in its tables."""
    one, several = dict(MATVEC_CONFIGS), dict(MATMUL_CONFIGS)
    for case, config in best.items():
        if case.rows == 1:
            one[case[:3]] = config
        else:
            several[*case[:3], row_bucket(case.rows)] = config
    tables = "# One row of activations.\n" + lines("MATVEC_CONFIGS: dict[tuple[str, int, int], KernelConfig]", one)
    tables += "# Several rows: by kind, outputs, inputs, and the bucket of rows.\n"
    tables += lines("MATMUL_CONFIGS: dict[tuple[str, int, int, int], KernelConfig]", several)
    source, count = TABLES.subn(lambda _: tables, Path(autotune.__file__).read_text(encoding="utf-8"))
    assert count == 1
    return source


def lines(declaration: str, table: Table) -> str:
    """Return the source of one table."""
    entries = [
        f"    {key!r}: KernelConfig{tuple(config)},\n".replace("'", '"') for key, config in sorted(table.items())
    ]
    return f"{declaration} = {{" + ("\n" + "".join(entries) if entries else "") + "}\n"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(BITS), default=list(BITS), help="kinds of weights to measure (default: all)"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        type=min_int(1),
        default=[1, *ROW_BUCKETS],
        help="numbers of rows of activations to measure",
    )
    parser.add_argument("--in-use", action="store_true", help="measure only the current configurations")
    parser.add_argument("--seconds", type=min_int(1), default=240, help="time limit (default %(default)s)")
    workers = max(1, (os.cpu_count() or 2) - 2)
    parser.add_argument("--workers", type=min_int(0), default=workers, help="compiling processes; 0 for none")
    parser.add_argument("--write", type=Path, help="write the best configurations to this file")
    return parser.parse_args()


def main() -> None:
    """Sweep, print, and write the table if requested."""
    options = parse_arguments()
    if not torch.cuda.is_available() or not has_triton(torch.device("cuda")):
        sys.exit("The kernels need an NVIDIA GPU of 2020 or later, and triton.")
    print(f"{describe_machine(torch.cuda.get_device_name())}\n", flush=True)
    started = time.monotonic()
    best = sweep(options)
    print_norms()
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    if options.write:
        options.write.write_text(table_source(best), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_program(main))
