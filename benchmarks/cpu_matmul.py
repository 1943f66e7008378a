"""CPU time of the matrix products of one token: plain linear layers and pretransposed batched products.

See `model.kernels.linear.PretransposedLinear`.

OMP_NUM_THREADS=1 python -m benchmarks.cpu_matmul
python -m benchmarks.cpu_matmul --rows 1 2 4 --sets 1       weights that stay in the cache

The weights have the shapes of visualglm-tiny's language model, in float32. Several sets of weights are used in turn, so
that they are read from memory, as they are when other programs use the cache. Times are medians.
"""

import argparse
import statistics
import sys
from functools import partial

import torch

from benchmarks.parts.backends import time_call
from benchmarks.parts.machine import describe_machine, min_int
from benchmarks.parts.table import show
from model import load_sat
from model.command_line import ArgumentParser, run_program
from model.kernels.linear import MAX_TRANSPOSED_ROWS, PretransposedLinear, has_slow_small_matmul

ROWS = (1, 2, 3, MAX_TRANSPOSED_ROWS, 6, 8, 16)


def random_weight_sets(count: int) -> list[list[PretransposedLinear]]:
    """Return `count` sets of random weights, each with the layers of one token in order."""
    network = load_sat("visualglm-tiny", device="cpu").network
    parts = (*network.transformer.layers.parameters(), *network.lm_head.parameters())
    shapes = [part.shape for part in parts if part.ndim == 2]
    return [[PretransposedLinear(torch.randn(shape), torch.randn(shape[0])) for shape in shapes] for _ in range(count)]


def median_ms(sets: list[list[PretransposedLinear]], rows: int, few: int, repetitions: int) -> float:
    """Return milliseconds of one token's products for `rows` rows; batched products are used up to `few` rows."""
    inputs = [torch.randn(rows, layer.weight.shape[0]) for layer in sets[0]]
    for layer in (layer for layers in sets for layer in layers):
        layer.few = few

    def multiply(layers: list[PretransposedLinear]) -> None:
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)

    spent = [time_call(partial(multiply, sets[number % len(sets)])) for number in range(repetitions + len(sets))]
    return statistics.median(spent[len(sets) :]) * 1e3


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=min_int(1), nargs="+", default=ROWS, help="numbers of rows (tokens in a batch)")
    parser.add_argument("--sets", type=min_int(1), default=4, help="sets of weights (default %(default)s)")
    parser.add_argument("--repetitions", type=min_int(1), default=60, help="(default %(default)s)")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    """Measure and print a table."""
    options = parse_arguments()
    sets = random_weight_sets(options.sets)
    size = sum(layer.weight.nbytes for layer in sets[0])
    chosen = f"batched products up to {MAX_TRANSPOSED_ROWS} rows" if has_slow_small_matmul() else "plain linear layers"
    show(f"{describe_machine()}, threads: {torch.get_num_threads()}, {size / 1e6:.1f} MB; in use: {chosen}\n")
    show("| rows | plain, ms | GB/s | batched, ms | GB/s |\n|---|---|---|---|---|")
    for rows in options.rows:
        spent = [median_ms(sets, rows, few, options.repetitions) for few in (0, rows)]
        show(f"| {rows} | " + " | ".join(f"{one:.3f} | {size / one / 1e6:.1f}" for one in spent) + " |")


if __name__ == "__main__":
    sys.exit(run_program(main))
