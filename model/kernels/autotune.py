"""Select the launch configuration of a matrix-product kernel, from a table of measured shapes or from defaults."""

import functools
import math
from typing import NamedTuple

# Maximum rows of activations for the kernels. Beyond it torch is faster: for a quantized weight, after dequantizing it.
MAX_ROWS = {"dense": 64, "int8": 256, "int4": 256}
# The maximum of an unquantized weight on GPUs without PDL, on which more rows were not measured.
MAX_DENSE_ROWS_WITHOUT_PDL = 16
# Maximum rows of activations in float32, which tensor cores do not multiply exactly.
MAX_FLOAT32_ROWS = 16
# Rows that the kernels for several rows are tuned for; each number of rows uses the configuration of the next of these.
ROW_BUCKETS = (16, 32, 64, 128, 256)
# Programs that keep an H200 busy: two for each of its 132 multiprocessors.
TARGET_PROGRAMS = 264
# Minimum columns per split: shorter splits are not worth the reduction of their partial sums.
MIN_SPLIT_COLUMNS = 512
# A program that is made to fit into shared memory keeps at least these stages and rows of activations.
MIN_STAGES, MIN_BLOCK_B = 2, 16
QUANT_BITS = {"int8": 8, "int4": 4}  # of the kinds of quantized weights
# Columns that one thread loads at once, 16 bytes, for 16-bit, 8-bit and 4-bit weights; also the minimum of block_i.
VECTOR_WIDTH = {"dense": 8, "int8": 16, "int4": 32}
# Minimum inner dimension of tl.dot.
MIN_DOT_COLUMNS = 16


class KernelConfig(NamedTuple):
    """The launch configuration of a matrix-product kernel.

    Attributes:
        block_o: rows of the weight per program, a power of two.
        block_i: columns per iteration, a power of two; for int4 and several rows at most a group.
        num_warps: warps (32 threads each) per program.
        num_stages: stages of the software pipeline through shared memory; 1 loads directly into registers.
        split_k: number of splits of the columns, each computed by a program of its own.
        block_b: rows of activations per program, a power of two of at least 16; unused for a single row.
        weight_first: whether several rows are multiplied as weight @ x.T.
    """

    block_o: int
    block_i: int
    num_warps: int
    num_stages: int
    split_k: int = 1
    block_b: int = 16
    weight_first: bool = False


# For one row of activations. Low-bit kernels first unpack x, so more rows of the weight share the cost of that.
MATVEC_DEFAULTS = {
    "dense": KernelConfig(4, 1024, 4, 1),
    "int8": KernelConfig(8, 4096, 8, 1),
    "int4": KernelConfig(8, 4096, 4, 1),
}


def default_config(kind: str, outputs: int, inputs: int, rows: int) -> KernelConfig:
    """Return a configuration for a weight [outputs, inputs] of a shape that was not measured."""
    if rows == 1:
        return clamp_block_i(MATVEC_DEFAULTS[kind], kind, inputs)
    block_b = row_bucket(rows)
    block_o = 32 if block_b == 16 else 64
    splits, weight_first = choose_split_k(outputs, inputs, block_o), kind == "dense" and block_b > 16
    config = KernelConfig(block_o, 128, 4, 4 if block_b < 128 else 3, splits, block_b, weight_first)
    return clamp_block_i(config, kind, inputs)


def row_bucket(rows: int) -> int:
    """Return the rows of activations that a configuration for `rows` rows is tuned for."""
    return next((bucket for bucket in ROW_BUCKETS if bucket >= rows), ROW_BUCKETS[-1])


def max_rows(kind: str, element_size: int, has_pdl: bool) -> int:
    """Return the maximum rows of activations, of `element_size` bytes each, that a kernel multiplies.

    Args:
        kind: "dense", "int8" or "int4".
        has_pdl: whether kernels launch early, see `dispatch.supports_pdl`.
    """
    if element_size != 2:
        return MAX_FLOAT32_ROWS
    return MAX_DENSE_ROWS_WITHOUT_PDL if kind == "dense" and not has_pdl else MAX_ROWS[kind]


def choose_split_k(outputs: int, inputs: int, block_o: int) -> int:
    """Return the number of splits of the columns, a power of two, that gives enough programs for the GPU."""
    split_k = 1
    while math.ceil(outputs / block_o) * split_k < TARGET_PROGRAMS and inputs >= 2 * split_k * MIN_SPLIT_COLUMNS:
        split_k *= 2
    return split_k


def clamp_block_i(config: KernelConfig, kind: str, inputs: int) -> KernelConfig:
    """Return `config` with block_i limited to the columns of the weight, rounded up to a valid block size."""
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
    ("int8", 4096, 4096): KernelConfig(8, 2048, 4, 1, 1),
    ("int8", 4096, 16384): KernelConfig(4, 2048, 4, 1, 1),
    ("int8", 12288, 4096): KernelConfig(8, 2048, 4, 1, 1),
    ("int8", 16384, 4096): KernelConfig(4, 1024, 2, 1, 1),
    ("int8", 130528, 4096): KernelConfig(4, 2048, 4, 1, 1),
}
# Several rows: by kind, outputs, inputs, and the bucket of rows.
MATMUL_CONFIGS: dict[tuple[str, int, int, int], KernelConfig] = {
    ("dense", 4096, 4096, 16): KernelConfig(64, 128, 4, 4, 4, 16, True),
    ("dense", 4096, 4096, 32): KernelConfig(64, 128, 4, 4, 4, 32, True),
    ("dense", 4096, 4096, 64): KernelConfig(64, 128, 4, 3, 4, 64, True),
    ("dense", 4096, 16384, 16): KernelConfig(64, 128, 4, 4, 4, 16, True),
    ("dense", 4096, 16384, 32): KernelConfig(64, 128, 4, 4, 4, 32, True),
    ("dense", 4096, 16384, 64): KernelConfig(64, 128, 4, 3, 4, 64, True),
    ("dense", 12288, 4096, 16): KernelConfig(64, 128, 4, 3, 1, 16, True),
    ("dense", 12288, 4096, 32): KernelConfig(64, 128, 4, 3, 1, 32, True),
    ("dense", 12288, 4096, 64): KernelConfig(64, 128, 4, 3, 1, 64, True),
    ("dense", 16384, 4096, 16): KernelConfig(64, 128, 4, 4, 1, 16, True),
    ("dense", 16384, 4096, 32): KernelConfig(64, 128, 4, 4, 1, 32, True),
    ("dense", 16384, 4096, 64): KernelConfig(64, 128, 4, 3, 1, 64, True),
    ("dense", 130528, 4096, 16): KernelConfig(64, 128, 4, 3, 1, 16, True),
    ("dense", 130528, 4096, 32): KernelConfig(128, 128, 4, 4, 1, 32, True),
    ("dense", 130528, 4096, 64): KernelConfig(128, 64, 4, 4, 1, 64, True),
    ("int4", 4096, 4096, 16): KernelConfig(256, 128, 4, 3, 16, 16, False),
    ("int4", 4096, 4096, 32): KernelConfig(64, 128, 4, 4, 8, 32, False),
    ("int4", 4096, 4096, 64): KernelConfig(64, 128, 4, 4, 4, 64, False),
    ("int4", 4096, 4096, 128): KernelConfig(64, 128, 4, 3, 4, 128, True),
    ("int4", 4096, 4096, 256): KernelConfig(64, 64, 4, 3, 4, 256, True),
    ("int4", 4096, 16384, 16): KernelConfig(128, 128, 2, 4, 16, 16, False),
    ("int4", 4096, 16384, 32): KernelConfig(64, 128, 4, 4, 8, 32, True),
    ("int4", 4096, 16384, 64): KernelConfig(128, 128, 4, 3, 8, 64, False),
    ("int4", 4096, 16384, 128): KernelConfig(64, 128, 4, 3, 4, 128, True),
    ("int4", 4096, 16384, 256): KernelConfig(64, 64, 4, 3, 4, 256, True),
    ("int4", 12288, 4096, 16): KernelConfig(256, 128, 4, 3, 8, 16, False),
    ("int4", 12288, 4096, 32): KernelConfig(128, 128, 4, 3, 4, 32, False),
    ("int4", 12288, 4096, 64): KernelConfig(128, 64, 4, 4, 4, 64, True),
    ("int4", 12288, 4096, 128): KernelConfig(64, 128, 4, 3, 1, 128, True),
    ("int4", 12288, 4096, 256): KernelConfig(64, 64, 4, 3, 1, 256, True),
    ("int4", 16384, 4096, 16): KernelConfig(128, 128, 2, 4, 4, 16, False),
    ("int4", 16384, 4096, 32): KernelConfig(64, 128, 4, 4, 2, 32, True),
    ("int4", 16384, 4096, 64): KernelConfig(64, 128, 4, 4, 1, 64, False),
    ("int4", 16384, 4096, 128): KernelConfig(64, 128, 4, 3, 1, 128, True),
    ("int4", 16384, 4096, 256): KernelConfig(64, 64, 4, 3, 1, 256, True),
    ("int4", 130528, 4096, 16): KernelConfig(128, 128, 4, 4, 1, 16, False),
    ("int4", 130528, 4096, 32): KernelConfig(128, 128, 4, 3, 1, 32, False),
    ("int4", 130528, 4096, 64): KernelConfig(128, 128, 4, 3, 1, 64, False),
    ("int4", 130528, 4096, 128): KernelConfig(128, 64, 4, 4, 1, 128, False),
    ("int4", 130528, 4096, 256): KernelConfig(128, 64, 8, 3, 1, 256, True),
    ("int8", 4096, 4096, 16): KernelConfig(128, 128, 4, 4, 4, 16, False),
    ("int8", 4096, 4096, 32): KernelConfig(64, 128, 4, 4, 8, 32, False),
    ("int8", 4096, 4096, 64): KernelConfig(128, 64, 4, 4, 8, 64, False),
    ("int8", 4096, 4096, 128): KernelConfig(64, 128, 4, 3, 4, 128, True),
    ("int8", 4096, 4096, 256): KernelConfig(128, 64, 8, 3, 4, 256, True),
    ("int8", 4096, 16384, 16): KernelConfig(64, 256, 4, 3, 8, 16, False),
    ("int8", 4096, 16384, 32): KernelConfig(64, 128, 4, 4, 8, 32, False),
    ("int8", 4096, 16384, 64): KernelConfig(128, 128, 4, 3, 8, 64, False),
    ("int8", 4096, 16384, 128): KernelConfig(128, 64, 4, 4, 8, 128, False),
    ("int8", 4096, 16384, 256): KernelConfig(64, 64, 8, 3, 4, 256, False),
    ("int8", 12288, 4096, 16): KernelConfig(64, 256, 4, 3, 2, 16, False),
    ("int8", 12288, 4096, 32): KernelConfig(64, 256, 4, 3, 2, 32, False),
    ("int8", 12288, 4096, 64): KernelConfig(128, 64, 4, 4, 4, 64, False),
    ("int8", 12288, 4096, 128): KernelConfig(64, 128, 4, 3, 1, 128, True),
    ("int8", 12288, 4096, 256): KernelConfig(64, 64, 8, 3, 1, 256, False),
    ("int8", 16384, 4096, 16): KernelConfig(32, 256, 4, 4, 1, 16, False),
    ("int8", 16384, 4096, 32): KernelConfig(128, 128, 4, 3, 4, 32, False),
    ("int8", 16384, 4096, 64): KernelConfig(128, 128, 4, 3, 2, 64, False),
    ("int8", 16384, 4096, 128): KernelConfig(64, 128, 4, 3, 1, 128, True),
    ("int8", 16384, 4096, 256): KernelConfig(64, 64, 8, 3, 1, 256, False),
    ("int8", 130528, 4096, 16): KernelConfig(64, 128, 4, 4, 1, 16, False),
    ("int8", 130528, 4096, 32): KernelConfig(128, 128, 4, 4, 1, 32, False),
    ("int8", 130528, 4096, 64): KernelConfig(128, 128, 8, 3, 1, 64, True),
    ("int8", 130528, 4096, 128): KernelConfig(128, 64, 4, 4, 1, 128, False),
    ("int8", 130528, 4096, 256): KernelConfig(128, 64, 8, 4, 1, 256, True),
}


def shared_bytes(config: KernelConfig, kind: str, element_size: int) -> int:
    """Return an upper bound of the shared memory of a program that multiplies several rows.

    That are the tiles of all stages, or the tile of sums, which is transposed through shared memory.

    Args:
        config: the configuration.
        kind: the kind of weight.
        element_size: bytes of an activation.
    """
    weight = config.block_o * config.block_i * QUANT_BITS.get(kind, 8 * element_size) // 8
    groups = 4 * config.block_o if kind == "int4" else 0
    stage = weight + groups + config.block_b * config.block_i * element_size
    return max(config.num_stages * stage, 4 * config.block_b * config.block_o)


def fit_config(config: KernelConfig, kind: str, element_size: int, limit: int) -> KernelConfig:
    """Return a configuration with as many stages and rows of activations as `limit` bytes of shared memory allow.

    The tables were measured on a GPU with 227 KiB for a program; others have 99 KiB.
    """
    while shared_bytes(config, kind, element_size) > limit:
        if config.num_stages > MIN_STAGES:
            config = config._replace(num_stages=config.num_stages - 1)
        elif config.block_b > MIN_BLOCK_B:
            config = config._replace(block_b=config.block_b // 2)
        else:
            config = config._replace(block_i=config.block_i // 2)
    return config


@functools.cache
def select_config(kind: str, outputs: int, inputs: int, rows: int) -> KernelConfig:
    """Return the configuration for x [rows, inputs] and a weight of `kind` [outputs, inputs].

    Batches of 2 to 16 rows share one configuration, so that the result of a row does not depend on the others.
    """
    measured = (
        MATVEC_CONFIGS.get((kind, outputs, inputs))
        if rows == 1
        else MATMUL_CONFIGS.get((kind, outputs, inputs, row_bucket(rows)))
    )
    return measured or default_config(kind, outputs, inputs, rows)
