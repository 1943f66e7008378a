"""The tiles that benchmarks/kernels.py tries, and the file that it writes the best ones to."""

import re
from pathlib import Path
from typing import NamedTuple

from model.kernels import autotune
from model.kernels.autotune import (
    MATMUL_CONFIGS,
    MATVEC_CONFIGS,
    VECTOR_WIDTH,
    KernelConfig,
    choose_split_k,
    clamp_block_i,
    select_config,
)

Table = dict[tuple[str, int, int], KernelConfig]
TABLES = re.compile(r"# One row of activations\.\nMATVEC: .*?\n}\n# Several rows\.\nMATMUL: .*?}\n", re.DOTALL)


class Case(NamedTuple):
    """A product x [rows, inputs] with a weight of a kind [outputs, inputs]."""

    kind: str
    outputs: int
    inputs: int
    rows: int


def candidates(case: Case) -> list[KernelConfig]:
    """Return the tiles to try, the one that is in use first."""
    used = select_config(*case)
    tried = row_tiles(case) if case.rows == 1 else rows_tiles(case)
    return [used, *(tile for tile in dict.fromkeys(tried) if tile != used)]


def row_tiles(case: Case) -> list[KernelConfig]:
    """Return tiles for one row: a thread reads one chunk of each row at a time, or two."""
    width = 32 * VECTOR_WIDTH[case.kind]  # of what a warp reads at once
    one = [KernelConfig(block_o, warps * width, warps, 1) for warps in (4, 8, 2) for block_o in (4, 8, 2, 16, 1)]
    two = [KernelConfig(block_o, 8 * width, 4, 1) for block_o in (2, 4, 8)]
    staged = [KernelConfig(4, 4 * width, 4, 3)]
    return [clamp_block_i(tile, case.kind, case.inputs) for tile in one[:-2] + two + staged]


def rows_tiles(case: Case) -> list[KernelConfig]:
    """Return tiles for several rows, each with as many splits as give every multiprocessor work, and fewer."""
    shapes = [(32, 128, 4), (64, 128, 4), (32, 256, 3), (64, 256, 3), (128, 128, 4), (32, 128, 6)]
    if case.kind == "int4":  # as wide as a group, whatever the tile says
        shapes = [(32, 128, 3), (64, 128, 3), (32, 128, 5), (64, 128, 5), (128, 128, 4)]
    enough = [(shape, choose_split_k(case.outputs, case.inputs, shape[0])) for shape in shapes]
    fewer = [(shape, split_k // 2) for shape, split_k in enough[:4] if split_k > 1]
    return [
        KernelConfig(block_o, block_i, 4, stages, split_k) for (block_o, block_i, stages), split_k in enough + fewer
    ]


def table_source(best: dict[Case, KernelConfig]) -> str:
    """Return the source of model/kernels/autotune.py with the tiles of `best` in its tables."""
    one, several = dict(MATVEC_CONFIGS), dict(MATMUL_CONFIGS)
    for case, tile in best.items():
        (one if case.rows == 1 else several)[case[:3]] = tile
    tables = f"# One row of activations.\n{lines('MATVEC', one)}# Several rows.\n{lines('MATMUL', several)}"
    source, count = TABLES.subn(lambda _: tables, Path(autotune.__file__).read_text(encoding="utf-8"))
    assert count == 1
    return source


def lines(name: str, table: Table) -> str:
    """Return the source of one table."""
    start = f"{name}: dict[tuple[str, int, int], Tile] = {{"
    entries = [f'    ("{key[0]}", {key[1]}, {key[2]}): Tile{tuple(tile)},\n' for key, tile in sorted(table.items())]
    return start + ("\n" + "".join(entries) if entries else "") + "}\n"
