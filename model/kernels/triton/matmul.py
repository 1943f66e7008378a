"""Products of several rows with a weight [O, I] of any kind, by tensor cores; dequantization of a whole weight."""

import triton
import triton.language as tl

from .tiles import load_block, load_rows, split_floats, store_rows, wait_for_inputs, weight_rows
from .unpack import dequantize_int4, unpack_int8


@triton.jit
def load_weight(
    weight,
    groups,
    row_index,
    first,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_I: tl.constexpr,
    STEP: tl.constexpr,
    DTYPE: tl.constexpr,
    PTX: tl.constexpr,
):
    """Load BLOCK_I columns from `first` on of a weight's rows, without the scales of rows: [BLOCK_O, BLOCK_I] in DTYPE.

    Columns beyond the end are not loaded unless INPUTS is a multiple of STEP. A block lies within a group.
    """
    if groups is None:
        block = load_block(weight, row_index * INPUTS, first + tl.arange(0, BLOCK_I), INPUTS, STEP)
        w = unpack_int8(block, DTYPE, PTX) if weight.dtype.element_ty == tl.int8 else block
    else:
        GROUPS: tl.constexpr = INPUTS // GROUP
        offsets = first // 2 + tl.arange(0, BLOCK_I // 2)
        packed = load_block(weight, row_index * (INPUTS // 2), offsets, INPUTS // 2, STEP // 2)
        group = tl.load(groups + row_index * GROUPS + tl.minimum(first // GROUP, GROUPS - 1))
        group_scale, zero_point = split_floats(group[:, None], tl.bfloat16)
        w = dequantize_int4(packed, group_scale, zero_point, DTYPE, PTX)
    return w


@triton.jit(do_not_specialize=["rows"])
def matmul(
    x,
    weight,
    scale,
    groups,
    bias,
    residual,
    out,
    partials,
    alpha,
    rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    SPLIT_K: tl.constexpr,
    WEIGHT_FIRST: tl.constexpr,
    STAGES: tl.constexpr,
    PTX: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply x [rows, I]; a program takes BLOCK_B of its rows, BLOCK_O rows of the weight, and one of SPLIT_K splits.

    `scale` is the float32 scale [O] of a quantized weight, or None; `groups` are the groups [O, G] of a 4-bit weight,
    each in one int32, or None. WEIGHT_FIRST computes the transposed product, which suits the tensor cores of GPUs of
    2022 and later for many rows.
    """
    wait_for_inputs(PDL)
    DTYPE: tl.constexpr = x.dtype.element_ty
    STEP: tl.constexpr = SPLIT_K * BLOCK_I
    SPLIT: tl.constexpr = tl.cdiv(INPUTS, STEP) * BLOCK_I
    columns, row_index = weight_rows(OUTPUTS, BLOCK_O)
    row = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    split = tl.program_id(1) * SPLIT
    acc = tl.zeros((BLOCK_O, BLOCK_B) if WEIGHT_FIRST else (BLOCK_B, BLOCK_O), tl.float32)
    for start in tl.range(0, SPLIT, BLOCK_I, num_stages=STAGES):
        first = split + start
        v = load_rows(x, row, first + tl.arange(0, BLOCK_I), rows, INPUTS, STEP)
        w = load_weight(weight, groups, row_index, first, INPUTS, GROUP, BLOCK_I, STEP, DTYPE, PTX)
        if WEIGHT_FIRST:
            acc = tl.dot(w, v.T, acc, input_precision="ieee")
        else:
            acc = tl.dot(v, w.T, acc, input_precision="ieee")
    if WEIGHT_FIRST:
        acc = acc.T
    if scale is not None:
        acc *= tl.load(scale + row_index)[None, :]
    store_rows(acc, bias, residual, out, partials, alpha, row, columns, rows, OUTPUTS, GELU, SPLIT_K)


@triton.jit
def dequantize(
    weight,
    scale,
    groups,
    out,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    PTX: tl.constexpr,
):
    """Store the dequantized weight [O, I]; a program computes BLOCK_O of its rows and BLOCK_I of its columns."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    rows, row_index = weight_rows(OUTPUTS, BLOCK_O)
    first = tl.program_id(1) * BLOCK_I
    w = load_weight(weight, groups, row_index, first, INPUTS, GROUP, BLOCK_I, BLOCK_I, DTYPE, PTX)
    columns = first + tl.arange(0, BLOCK_I)
    mask = (rows < OUTPUTS)[:, None] & (columns < INPUTS)[None, :]
    w = w.to(tl.float32) * tl.load(scale + row_index)[:, None]
    tl.store(out + row_index[:, None] * INPUTS + columns[None, :], w.to(DTYPE), mask=mask)
