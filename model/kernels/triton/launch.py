"""Starting the kernels: their grids and arguments."""

from typing import Any

import torch
import triton
import triton.language as tl

from ..autotune import Tile, default_tile, tile_for
from ..capability import starts_early
from ..ending import Ending
from . import dense, int4, int8, norm
from .tiles import add_parts

KERNELS = {"dense": dense, "int8": int8, "int4": int4}
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Columns that one program adds up the parts of.
BLOCK_PARTS = 256
# Elements of a row of layer norm for each warp.
NORM_SHARE = 512


def multiply(
    kind: str,
    x: torch.Tensor,
    parts: tuple[torch.Tensor, ...],
    ending: Ending,
    out: torch.Tensor | None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual [B, O] of x [B, I], B at most 16.

    Args:
        kind: "dense", "int8" or "int4".
        parts: of the weight, in the order in which the public function of that kind takes them.
        out: [B, O] to be filled and returned; any strides.
        tile: another than the table's.
    """
    outputs, inputs = len(parts[0]), x.shape[1]
    shape = (kind, outputs, inputs, len(x))
    if tile is None:  # those of the table were measured with 16 bits
        tile = tile_for(*shape) if x.element_size() == 2 else default_tile(*shape)
    y = out if out is not None and out.is_contiguous() else x.new_empty(len(x), outputs)
    run = multiply_row if len(x) == 1 else multiply_rows
    early = start_of(x.device, *parts, ending.bias)
    with torch.cuda.device_of(x):
        run(kind, x.contiguous(), tuple(part.contiguous() for part in parts), ending, y, tile, early)
    return y if out is None or y is out else out.copy_(y)


def start_of(device: torch.device, *constants: torch.Tensor | None) -> dict[str, Any]:
    """Return the arguments with which a kernel starts while the one before it ends, where `device` can do so.

    It may read `constants` at once, so these are not to be copies that are only being made.
    """
    if starts_early(device) and all(constant is None or constant.is_contiguous() for constant in constants):
        return {"EARLY": True, "launch_pdl": True}
    return {"EARLY": False}


def multiply_row(
    kind: str,
    x: torch.Tensor,
    parts: tuple[torch.Tensor, ...],
    ending: Ending,
    out: torch.Tensor,
    tile: Tile,
    early: dict[str, Any],
) -> None:
    """Multiply x [1, I]."""
    if kind == "dense":
        operands = {"x": x, "weight": parts[0]}
    else:
        operands = few_bits(kind, x, parts)
        operands["words"] = parts[0].view(torch.int32)
        operands["x"] = in_pairs(x)
    KERNELS[kind].matvec[(triton.cdiv(out.shape[1], tile.block_o),)](
        **operands,
        **closing(ending, out),
        **early,
        INPUTS=x.shape[1],
        BLOCK_O=tile.block_o,
        BLOCK_I=tile.block_i,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )


def multiply_rows(
    kind: str,
    x: torch.Tensor,
    parts: tuple[torch.Tensor, ...],
    ending: Ending,
    out: torch.Tensor,
    tile: Tile,
    early: dict[str, Any],
) -> None:
    """Multiply x [B, I] of several rows, and add up the parts of a product that is split."""
    rows, outputs = out.shape
    if kind == "dense":
        operands = {"x": x, "weight": parts[0], "BLOCK_I": tile.block_i}
    elif kind == "int8":
        operands = {"x": x, "numbers": parts[0], "scale": parts[1], "BLOCK_I": tile.block_i}
    else:
        operands = {**few_bits(kind, x, parts), "x": in_pairs(x), "pairs": parts[0]}
    sums = x.new_empty(tile.splits, rows, outputs, dtype=torch.float32) if tile.splits > 1 else None
    KERNELS[kind].matmul[(triton.cdiv(outputs, tile.block_o), tile.splits)](
        **operands,
        **closing(ending, out),
        **early,
        parts=sums,
        rows=rows,
        INPUTS=x.shape[1],
        BLOCK_O=tile.block_o,
        SPLITS=tile.splits,
        STAGES=tile.stages,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    if sums is not None:
        add_parts[(triton.cdiv(outputs, BLOCK_PARTS), rows)](
            sums, **closing(ending, out), **early, rows=rows, SPLITS=tile.splits, BLOCK_O=BLOCK_PARTS
        )


def few_bits(kind: str, x: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Return what kernels for weights of few bits are given beside these and x."""
    if kind == "int8":
        return {"scale": parts[1], "DTYPE": DTYPES[x.dtype]}
    _, scale, groups = parts
    size = x.shape[1] // groups.shape[1]
    return {
        "scale": scale,
        "groups": groups.view(torch.int32),
        "GROUP": size,
        "DTYPE": DTYPES[x.dtype],
    }


def closing(ending: Ending, out: torch.Tensor) -> dict[str, Any]:
    """Return the arguments that say what follows the sums."""
    return {
        "bias": None if ending.bias is None else ending.bias.contiguous(),
        "residual": None if ending.residual is None else ending.residual.contiguous(),
        "out": out,
        "alpha": float(ending.alpha),
        "OUTPUTS": out.shape[1],
        "GELU": ending.gelu,
    }


def in_pairs(x: torch.Tensor) -> torch.Tensor:
    """Return x [B, I] as integers [B, I / 2] of two activations each."""
    return x.view(torch.int32 if x.element_size() == 2 else torch.int64)


def normalize(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the layer norm of x [B, D]."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    warps = min(16, max(1, block // NORM_SHARE))
    y = out if out is not None and out.is_contiguous() else x.new_empty(rows, columns)
    sizes = {"COLUMNS": columns, "BLOCK": block, "num_warps": warps}
    with torch.cuda.device_of(x):
        norm.layer_norm[(rows,)](x.contiguous(), weight, bias, y, eps, **sizes, **start_of(x.device))
    return y if out is None or y is out else out.copy_(y)
