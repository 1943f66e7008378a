"""The fastest tiles on an H200, by (kind, rows, columns of the weight). benchmarks/kernels.py writes this file."""

from .tile import Tile

# One row of activations.
MATVEC: dict[tuple[str, int, int], Tile] = {}
# Several rows.
MATMUL: dict[tuple[str, int, int], Tile] = {}
