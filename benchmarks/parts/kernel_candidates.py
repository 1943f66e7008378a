"""Launch configurations to try for a matrix product."""

from typing import NamedTuple

from model.kernels.autotune import (
    VECTOR_WIDTH,
    KernelConfig,
    choose_split_k,
    clamp_block_i,
    row_bucket,
    select_config,
)

GROUP = 128  # 4-bit weights that share a scale and a zero point


class MatmulCase(NamedTuple):
    """A product x [rows, inputs] with a weight of a kind [outputs, inputs]."""

    kind: str
    outputs: int
    inputs: int
    rows: int


def candidate_configs(case: MatmulCase) -> list[KernelConfig]:
    """Return the configurations to try, the current one first."""
    used = select_config(*case)
    tried = matvec_configs(case) if case.rows == 1 else matmul_configs(case)
    return [used, *(config for config in dict.fromkeys(tried) if config != used)]


def matvec_configs(case: MatmulCase) -> list[KernelConfig]:
    """Return configurations for one row of activations: a thread reads one or two vectors per weight row at a time."""
    width = 32 * VECTOR_WIDTH[case.kind]  # elements that a warp reads at once
    one = [KernelConfig(block_o, warps * width, warps, 1) for warps in (4, 8, 2) for block_o in (4, 8, 2, 16, 1)]
    two = [KernelConfig(block_o, 8 * width, 4, 1) for block_o in (2, 4, 8)]
    staged = [KernelConfig(4, 4 * width, 4, 3)]
    return [clamp_block_i(config, case.kind, case.inputs) for config in one[:-2] + two + staged]


# Candidates for several rows, by bucket: block_o, block_i, num_warps, num_stages, weight_first.
MATMUL_CANDIDATES = {
    16: (
        (32, 128, 4, 4, False),
        (64, 128, 4, 4, False),
        (128, 128, 4, 4, False),
        (128, 128, 2, 4, False),
        (256, 128, 4, 3, False),
        (64, 256, 4, 3, False),
        (32, 256, 4, 4, False),
        (64, 128, 4, 4, True),
        (64, 128, 4, 3, True),
        (128, 128, 8, 4, True),
    ),
    32: (
        (64, 128, 4, 4, False),
        (128, 128, 4, 4, False),
        (128, 128, 4, 3, False),
        (128, 128, 8, 4, False),
        (64, 256, 4, 3, False),
        (64, 128, 4, 4, True),
        (128, 128, 4, 4, True),
    ),
    64: (
        (64, 128, 4, 4, False),
        (128, 64, 4, 4, False),
        (128, 128, 4, 3, False),
        (64, 128, 4, 3, True),
        (64, 128, 4, 4, True),
        (128, 64, 4, 4, True),
        (128, 128, 8, 3, True),
    ),
    128: (
        (128, 64, 4, 4, False),
        (128, 64, 8, 3, False),
        (64, 128, 4, 3, True),
        (64, 64, 4, 4, True),
        (128, 64, 4, 3, True),
        (128, 128, 8, 3, True),
    ),
    256: (
        (64, 64, 4, 3, True),
        (64, 64, 4, 4, True),
        (128, 64, 8, 3, True),
        (128, 64, 8, 4, True),
        (64, 64, 8, 3, False),
        (128, 64, 8, 3, False),
    ),
}


def matmul_configs(case: MatmulCase) -> list[KernelConfig]:
    """Return configurations for several rows of activations, with enough splits to occupy the GPU, half, or twice."""
    bucket = row_bucket(case.rows)
    configs = []
    for block_o, block_i, warps, stages, weight_first in MATMUL_CANDIDATES[bucket]:
        if case.kind == "int4" and block_i > GROUP:  # a block lies within a group
            continue
        enough = choose_split_k(case.outputs, case.inputs, block_o)
        for splits in (enough, max(1, enough // 2), enough * 2):
            configs.append(KernelConfig(block_o, block_i, warps, stages, splits, bucket, weight_first))
    return list(dict.fromkeys(configs))
