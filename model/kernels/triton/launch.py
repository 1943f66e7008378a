"""Launch the kernels: compute their grids and arguments."""

from typing import Any

import torch
import triton
import triton.language as tl

from ..autotune import KernelConfig, default_config, fit_config, select_config
from ..dispatch import is_interpreted, pdl_args, shared_memory_limit
from ..epilogue import Epilogue
from . import dense, int4, int8, matmul, norm
from .tiles import reduce_splits

MATVEC_KERNELS = {"dense": dense, "int8": int8, "int4": int4}
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Columns per program of the split-K reduction.
REDUCE_BLOCK = 256
# Rows and columns of a weight that a program dequantizes.
DEQUANTIZE_TILES = {"int8": (32, 128), "int4": (8, 128)}
# Elements of a row per warp of layer norm.
NORM_ELEMENTS_PER_WARP = 512


def multiply(
    kind: str,
    x: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor | None,
    config: KernelConfig | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O].

    Args:
        kind: "dense", "int8" or "int4".
        x: the activations [B, I].
        weight: the weight's tensors, in the order of the parameters of `linear.multiply_dense`, `multiply_int8` or
            `multiply_int4`.
        epilogue: the bias, activation and residual.
        out: [B, O] to be filled and returned; any strides.
        config: launch configuration; None for `select_config`.
    """
    outputs, inputs = len(weight[0]), x.shape[1]
    shape = (kind, outputs, inputs, len(x))
    if config is None:  # the table was measured with 16-bit activations
        config = select_config(*shape) if x.element_size() == 2 else default_config(*shape)
    y = out if out is not None and out.is_contiguous() else x.new_empty(len(x), outputs)
    run = launch_matvec if len(x) == 1 else launch_matmul
    pdl = pdl_args(x.device, *weight, epilogue.bias)
    with torch.cuda.device_of(x):
        run(kind, x.contiguous(), tuple(tensor.contiguous() for tensor in weight), epilogue, y, config, pdl)
    return y if out is None or y is out else out.copy_(y)


def launch_matvec(
    kind: str,
    x: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor,
    config: KernelConfig,
    pdl: dict[str, Any],
) -> None:
    """Launch the product of one row x [1, I]."""
    if kind == "dense":
        operands = {"x": x, "weight": weight[0]}
    else:
        operands = quant_kernel_args(kind, x, weight)
        operands["words"] = weight[0].view(torch.int32)
        operands["x"] = view_as_pairs(x)
    MATVEC_KERNELS[kind].matvec[(triton.cdiv(out.shape[1], config.block_o),)](
        **operands,
        **epilogue_args(epilogue, out),
        **pdl,
        INPUTS=x.shape[1],
        BLOCK_O=config.block_o,
        BLOCK_I=config.block_i,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
    )


def launch_matmul(
    kind: str,
    x: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor,
    config: KernelConfig,
    pdl: dict[str, Any],
) -> None:
    """Launch the product of several rows x [B, I], and with split-K the reduction of the partial sums."""
    rows, outputs = out.shape
    config = fit_config(config, kind, x.element_size(), shared_memory_limit(x.device))
    partials = x.new_empty(config.split_k, rows, outputs, dtype=torch.float32) if config.split_k > 1 else None
    block_i = limit_block_i(config.block_i, kind, x.shape[1], weight)
    matmul.matmul[(triton.cdiv(outputs, config.block_o), config.split_k, triton.cdiv(rows, config.block_b))](
        x,
        **weight_args(kind, x.shape[1], weight, x.dtype),
        **epilogue_args(epilogue, out),
        **pdl,
        partials=partials,
        rows=rows,
        BLOCK_B=config.block_b,
        BLOCK_O=config.block_o,
        BLOCK_I=block_i,
        SPLIT_K=config.split_k,
        WEIGHT_FIRST=config.weight_first,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if partials is not None:
        reduce_splits[(triton.cdiv(outputs, REDUCE_BLOCK), rows)](
            partials, **epilogue_args(epilogue, out), **pdl, rows=rows, SPLIT_K=config.split_k, BLOCK_O=REDUCE_BLOCK
        )


def dequantize(kind: str, weight: tuple[torch.Tensor, ...], inputs: int, out: torch.Tensor) -> torch.Tensor:
    """Fill `out` with a dequantized weight [O, I] of `kind` and return it."""
    block_o, block_i = DEQUANTIZE_TILES[kind]
    block_i = limit_block_i(block_i, kind, inputs, weight)
    with torch.cuda.device_of(out):
        matmul.dequantize[(triton.cdiv(len(out), block_o), triton.cdiv(inputs, block_i))](
            **weight_args(kind, inputs, tuple(tensor.contiguous() for tensor in weight), out.dtype),
            out=out,
            OUTPUTS=len(out),
            BLOCK_O=block_o,
            BLOCK_I=block_i,
        )
    return out


def limit_block_i(block_i: int, kind: str, inputs: int, weight: tuple[torch.Tensor, ...]) -> int:
    """Return `block_i`, limited to the columns of a group of a 4-bit weight."""
    return min(block_i, inputs // weight[2].shape[1]) if kind == "int4" else block_i


def weight_args(kind: str, inputs: int, weight: tuple[torch.Tensor, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `matmul.load_weight` for activations of `dtype`, and the scale of rows."""
    return {
        "weight": weight[0],
        "scale": None if kind == "dense" else weight[1],
        "groups": weight[2].view(torch.int32) if kind == "int4" else None,
        "INPUTS": inputs,
        "GROUP": limit_block_i(inputs, kind, inputs, weight),
        "PTX": dtype == torch.float16 and not is_interpreted(),
    }


def quant_kernel_args(kind: str, x: torch.Tensor, weight: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Return the arguments of a low-bit kernel, apart from the activations and the quantized weight itself."""
    if kind == "int8":
        return {"scale": weight[1], "DTYPE": DTYPES[x.dtype]}
    _, scale, groups = weight
    size = x.shape[1] // groups.shape[1]
    return {
        "scale": scale,
        "groups": groups.view(torch.int32),
        "GROUP": size,
        "DTYPE": DTYPES[x.dtype],
    }


def epilogue_args(epilogue: Epilogue, out: torch.Tensor) -> dict[str, Any]:
    """Return the kernel arguments of an epilogue and its output."""
    return {
        "bias": None if epilogue.bias is None else epilogue.bias.contiguous(),
        "residual": None if epilogue.residual is None else epilogue.residual.contiguous(),
        "out": out,
        "alpha": float(epilogue.alpha),
        "OUTPUTS": out.shape[1],
        "GELU": epilogue.gelu,
    }


def view_as_pairs(x: torch.Tensor) -> torch.Tensor:
    """View x [B, I] as integers [B, I / 2] that hold two activations each."""
    return x.view(torch.int32 if x.element_size() == 2 else torch.int64)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor | None = None,
    *,
    added: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
) -> torch.Tensor:
    """Launch the layer norm of x [B, D], or of x + added, which fills `total`; see `model.kernels.norm`."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    warps = min(16, max(1, block // NORM_ELEMENTS_PER_WARP))
    y = out if out is not None and out.is_contiguous() else x.new_empty(rows, columns)
    added = None if added is None else added.contiguous()
    sizes = {"COLUMNS": columns, "BLOCK": block, "num_warps": warps}
    with torch.cuda.device_of(x):
        norm.layer_norm[(rows,)](x.contiguous(), added, weight, bias, total, y, eps, **sizes, **pdl_args(x.device))
    return y if out is None or y is out else out.copy_(y)
