"""Products with a whole weight [O, I] of 16 or 32 bits."""

import triton
import triton.language as tl

from .tiles import (
    load_bias,
    load_block,
    load_chunks,
    load_row,
    load_rows,
    store_row,
    store_rows,
    wait_for_inputs,
    weight_rows,
)


@triton.jit
def matvec(
    x,
    weight,
    bias,
    residual,
    out,
    alpha,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply one row x [1, I]; a program takes BLOCK_O rows of the weight, BLOCK_I columns at a time."""
    CHUNK: tl.constexpr = 8  # columns that a thread reads at once
    rows, first = weight_rows(OUTPUTS, BLOCK_O)
    places = tl.arange(0, BLOCK_I // CHUNK)[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    w = load_chunks(weight, first * INPUTS, places, INPUTS, BLOCK_I)
    b = bias if bias is None else load_bias(bias, rows, rows < OUTPUTS)
    wait_for_inputs(PDL)
    sums = tl.zeros((BLOCK_I // CHUNK, BLOCK_O), tl.float32)
    sums = add_columns(sums, w, x, places, INPUTS, BLOCK_I)
    for start in tl.range(BLOCK_I, INPUTS, BLOCK_I, num_stages=STAGES):
        w = load_chunks(weight, first * INPUTS, start + places, INPUTS, BLOCK_I)
        sums = add_columns(sums, w, x, start + places, INPUTS, BLOCK_I)
    store_row(tl.sum(sums, axis=0), b, residual, out, alpha, rows, OUTPUTS, GELU)


@triton.jit
def add_columns(sums, w, x, places, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return sums [C, BLOCK_O] + the products of weights w [C, BLOCK_O, N] and activations at places [C, N]."""
    v = load_row(x, places, INPUTS, BLOCK_I).to(tl.float32)
    return sums + tl.sum(w.to(tl.float32) * v[:, None, :], axis=2)


@triton.jit(do_not_specialize=["rows"])
def matmul(
    x,
    weight,
    bias,
    residual,
    out,
    parts,
    alpha,
    rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    SPLIT_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply up to 16 rows; a program takes BLOCK_O rows of the weight and one of SPLITS shares of the columns."""
    wait_for_inputs(PDL)
    columns, first = weight_rows(OUTPUTS, BLOCK_O)
    SHARE: tl.constexpr = tl.cdiv(INPUTS, SPLIT_K * BLOCK_I) * BLOCK_I
    begin = tl.program_id(1) * SHARE
    sums = tl.zeros((16, BLOCK_O), tl.float32)
    for start in tl.range(0, SHARE, BLOCK_I, num_stages=STAGES):
        places = begin + start + tl.arange(0, BLOCK_I)
        v = load_rows(x, places, rows, INPUTS, SPLIT_K * BLOCK_I)
        w = load_block(weight, first * INPUTS, places, INPUTS, SPLIT_K * BLOCK_I)
        sums = tl.dot(v, w, sums, input_precision="ieee")
    store_rows(sums, bias, residual, out, parts, alpha, columns, rows, OUTPUTS, GELU, SPLIT_K)
