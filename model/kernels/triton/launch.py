"""Starting the kernels: their grids and arguments."""

from typing import Any

import torch
import triton
import triton.language as tl

from ..autotune import KernelConfig, default_config, select_config
from ..capability import supports_pdl
from ..epilogue import Epilogue
from . import dense, int4, int8, norm
from .tiles import reduce_splits

KERNELS = {"dense": dense, "int8": int8, "int4": int4}
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Columns that one program adds up the parts of.
REDUCE_BLOCK = 256
# Elements of a row of layer norm for each warp.
NORM_ELEMENTS_PER_WARP = 512


def multiply(
    kind: str,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor | None,
    config: KernelConfig | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual [B, O] of x [B, I], B at most 16.

    Args:
        kind: "dense", "int8" or "int4".
        parts: of the weight, in the order in which the public function of that kind takes them.
        out: [B, O] to be filled and returned; any strides.
        tile: another than the table's.
    """
    outputs, inputs = len(weights[0]), x.shape[1]
    shape = (kind, outputs, inputs, len(x))
    if config is None:  # those of the table were measured with 16 bits
        config = select_config(*shape) if x.element_size() == 2 else default_config(*shape)
    y = out if out is not None and out.is_contiguous() else x.new_empty(len(x), outputs)
    run = launch_matvec if len(x) == 1 else launch_matmul
    early = pdl_args(x.device, *weights, epilogue.bias)
    with torch.cuda.device_of(x):
        run(kind, x.contiguous(), tuple(part.contiguous() for part in weights), epilogue, y, config, early)
    return y if out is None or y is out else out.copy_(y)


def pdl_args(device: torch.device, *constants: torch.Tensor | None) -> dict[str, Any]:
    """Return the arguments with which a kernel starts while the one before it ends, where `device` can do so.

    It may read `constants` at once, so these are not to be copies that are only being made.
    """
    if supports_pdl(device) and all(constant is None or constant.is_contiguous() for constant in constants):
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}


def launch_matvec(
    kind: str,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor,
    config: KernelConfig,
    early: dict[str, Any],
) -> None:
    """Multiply x [1, I]."""
    if kind == "dense":
        operands = {"x": x, "weight": weights[0]}
    else:
        operands = quant_kernel_args(kind, x, weights)
        operands["words"] = weights[0].view(torch.int32)
        operands["x"] = view_as_pairs(x)
    KERNELS[kind].matvec[(triton.cdiv(out.shape[1], config.block_o),)](
        **operands,
        **epilogue_args(epilogue, out),
        **early,
        INPUTS=x.shape[1],
        BLOCK_O=config.block_o,
        BLOCK_I=config.block_i,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
    )


def launch_matmul(
    kind: str,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor,
    config: KernelConfig,
    early: dict[str, Any],
) -> None:
    """Multiply x [B, I] of several rows, and add up the parts of a product that is split."""
    rows, outputs = out.shape
    if kind == "dense":
        operands = {"x": x, "weight": weights[0], "BLOCK_I": config.block_i}
    elif kind == "int8":
        operands = {"x": x, "numbers": weights[0], "scale": weights[1], "BLOCK_I": config.block_i}
    else:
        operands = {**quant_kernel_args(kind, x, weights), "x": view_as_pairs(x), "pairs": weights[0]}
    sums = x.new_empty(config.split_k, rows, outputs, dtype=torch.float32) if config.split_k > 1 else None
    KERNELS[kind].matmul[(triton.cdiv(outputs, config.block_o), config.split_k)](
        **operands,
        **epilogue_args(epilogue, out),
        **early,
        weights=sums,
        rows=rows,
        INPUTS=x.shape[1],
        BLOCK_O=config.block_o,
        SPLIT_K=config.split_k,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if sums is not None:
        reduce_splits[(triton.cdiv(outputs, REDUCE_BLOCK), rows)](
            sums, **epilogue_args(epilogue, out), **early, rows=rows, SPLIT_K=config.split_k, BLOCK_O=REDUCE_BLOCK
        )


def quant_kernel_args(kind: str, x: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Return what kernels for weights of few bits are given beside these and x."""
    if kind == "int8":
        return {"scale": weights[1], "DTYPE": DTYPES[x.dtype]}
    _, scale, groups = weights
    size = x.shape[1] // groups.shape[1]
    return {
        "scale": scale,
        "groups": groups.view(torch.int32),
        "GROUP": size,
        "DTYPE": DTYPES[x.dtype],
    }


def epilogue_args(epilogue: Epilogue, out: torch.Tensor) -> dict[str, Any]:
    """Return the arguments that say what follows the sums."""
    return {
        "bias": None if epilogue.bias is None else epilogue.bias.contiguous(),
        "residual": None if epilogue.residual is None else epilogue.residual.contiguous(),
        "out": out,
        "alpha": float(epilogue.alpha),
        "OUTPUTS": out.shape[1],
        "GELU": epilogue.gelu,
    }


def view_as_pairs(x: torch.Tensor) -> torch.Tensor:
    """Return x [B, I] as integers [B, I / 2] of two activations each."""
    return x.view(torch.int32 if x.element_size() == 2 else torch.int64)


def normalize(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the layer norm of x [B, D]."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    warps = min(16, max(1, block // NORM_ELEMENTS_PER_WARP))
    y = out if out is not None and out.is_contiguous() else x.new_empty(rows, columns)
    sizes = {"COLUMNS": columns, "BLOCK": block, "num_warps": warps}
    with torch.cuda.device_of(x):
        norm.layer_norm[(rows,)](x.contiguous(), weight, bias, y, eps, **sizes, **pdl_args(x.device))
    return y if out is None or y is out else out.copy_(y)
