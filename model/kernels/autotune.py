"""Choose the tile that one program of a GPU kernel computes, from the shapes that were measured."""

import functools
import math
from typing import NamedTuple

# Of activations: with more of them torch is used. The kernels for several rows work on tiles of so many.
MAX_ROWS = 16
# Programs that keep an H200 busy: two for each of its 132 multiprocessors.
TARGET_PROGRAMS = 264
# Columns of the weight whose sums are worth a part of their own, where a product is split.
MIN_SPLIT_COLUMNS = 512
# Columns of whole weights, of 8 and of 4 bits that one thread reads at once, 16 bytes; a tile has at least as many.
VECTOR_WIDTH = {"dense": 8, "int8": 16, "int4": 32}
# tl.dot adds up so many columns at once.
MIN_DOT_COLUMNS = 16


class KernelConfig(NamedTuple):
    """What one program does.

    Attributes:
        block_o: rows of the weight, a power of two.
        block_i: columns at a time, a power of two; for int4 and several rows it is one group, whatever is said here.
        warps: of 32 threads that share the work.
        stages: tiles that are on their way at once through shared memory; 1 loads straight to registers.
        splits: shares of the columns, each the work of a program of its own.
    """

    block_o: int
    block_i: int
    num_warps: int
    num_stages: int
    split_k: int = 1


# For one row of activations. With few bits, making x ready costs instructions that more rows of the weight share.
MATVEC_DEFAULTS = {
    "dense": KernelConfig(4, 1024, 4, 1),
    "int8": KernelConfig(8, 4096, 8, 1),
    "int4": KernelConfig(8, 4096, 4, 1),
}


def default_config(kind: str, outputs: int, inputs: int, rows: int) -> KernelConfig:
    """Return a tile for a weight [outputs, inputs] of a shape that was not measured."""
    if rows == 1:
        return clamp_block_i(MATVEC_DEFAULTS[kind], kind, inputs)
    return clamp_block_i(KernelConfig(32, 128, 4, 4, choose_split_k(outputs, inputs, 32)), kind, inputs)


def choose_split_k(outputs: int, inputs: int, block_o: int) -> int:
    """Return into how many shares the columns are split, a power of two, so that there are enough programs."""
    split_k = 1
    while math.ceil(outputs / block_o) * split_k < TARGET_PROGRAMS and inputs >= 2 * split_k * MIN_SPLIT_COLUMNS:
        split_k *= 2
    return split_k


def clamp_block_i(config: KernelConfig, kind: str, inputs: int) -> KernelConfig:
    """Return `config` with no more columns than a narrow weight has."""
    narrow = max(VECTOR_WIDTH[kind], MIN_DOT_COLUMNS, 1 << (inputs - 1).bit_length())
    return config._replace(block_i=min(config.block_i, narrow))


# One row of activations.
MATVEC_CONFIGS: dict[tuple[str, int, int], KernelConfig] = {
    ("dense", 4096, 4096): KernelConfig(1, 2048, 8, 1, 1),
    ("dense", 4096, 16384): KernelConfig(4, 1024, 4, 1, 1),
    ("dense", 12288, 4096): KernelConfig(1, 2048, 8, 1, 1),
    ("dense", 16384, 4096): KernelConfig(1, 2048, 8, 1, 1),
    ("dense", 130528, 4096): KernelConfig(2, 2048, 8, 1, 1),
    ("int4", 4096, 4096): KernelConfig(8, 4096, 4, 1, 1),
    ("int4", 4096, 16384): KernelConfig(8, 4096, 4, 1, 1),
    ("int4", 12288, 4096): KernelConfig(8, 4096, 4, 1, 1),
    ("int4", 16384, 4096): KernelConfig(8, 4096, 4, 1, 1),
    ("int4", 130528, 4096): KernelConfig(16, 4096, 4, 1, 1),
    ("int8", 4096, 4096): KernelConfig(4, 2048, 4, 1, 1),
    ("int8", 4096, 16384): KernelConfig(4, 2048, 4, 1, 1),
    ("int8", 12288, 4096): KernelConfig(4, 4096, 4, 1, 1),
    ("int8", 16384, 4096): KernelConfig(4, 4096, 4, 1, 1),
    ("int8", 130528, 4096): KernelConfig(4, 2048, 4, 1, 1),
}
# Several rows.
MATMUL_CONFIGS: dict[tuple[str, int, int], KernelConfig] = {
    ("dense", 4096, 4096): KernelConfig(64, 128, 4, 4, 4),
    ("dense", 4096, 16384): KernelConfig(32, 256, 4, 3, 2),
    ("dense", 12288, 4096): KernelConfig(32, 128, 4, 4, 1),
    ("dense", 16384, 4096): KernelConfig(32, 128, 4, 4, 1),
    ("dense", 130528, 4096): KernelConfig(128, 128, 4, 4, 1),
    ("int4", 4096, 4096): KernelConfig(128, 128, 4, 4, 8),
    ("int4", 4096, 16384): KernelConfig(128, 128, 4, 4, 16),
    ("int4", 12288, 4096): KernelConfig(128, 128, 4, 4, 4),
    ("int4", 16384, 4096): KernelConfig(128, 128, 4, 4, 4),
    ("int4", 130528, 4096): KernelConfig(128, 128, 4, 4, 1),
    ("int8", 4096, 4096): KernelConfig(64, 128, 4, 4, 8),
    ("int8", 4096, 16384): KernelConfig(64, 128, 4, 4, 8),
    ("int8", 12288, 4096): KernelConfig(32, 256, 4, 3, 1),
    ("int8", 16384, 4096): KernelConfig(32, 256, 4, 3, 1),
    ("int8", 130528, 4096): KernelConfig(128, 128, 4, 4, 1),
}


@functools.cache
def select_config(kind: str, outputs: int, inputs: int, rows: int) -> KernelConfig:
    """Return the tile for x [rows, inputs] and a weight of `kind` [outputs, inputs].

    All numbers of rows but one share a tile, so that a row's result is the same whatever the others are.
    """
    measured = (MATVEC_CONFIGS if rows == 1 else MATMUL_CONFIGS).get((kind, outputs, inputs))
    return measured or default_config(kind, outputs, inputs, rows)
