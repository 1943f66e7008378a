"""Products of one row with an unquantized weight [O, I] of 16 or 32 bits."""

import triton
import triton.language as tl

from .tiles import load_bias, load_chunks, load_row, store_row, wait_for_inputs, weight_rows


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
    """Multiply one row x [1, I]; a program computes BLOCK_O rows of the weight, BLOCK_I columns per iteration."""
    CHUNK: tl.constexpr = 8  # columns that a thread loads at once
    rows, row_index = weight_rows(OUTPUTS, BLOCK_O)
    offsets = tl.arange(0, BLOCK_I // CHUNK)[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    w = load_chunks(weight, row_index * INPUTS, offsets, INPUTS, BLOCK_I)
    b = bias if bias is None else load_bias(bias, rows, rows < OUTPUTS)
    wait_for_inputs(PDL)
    acc = tl.zeros((BLOCK_I // CHUNK, BLOCK_O), tl.float32)
    acc = add_columns(acc, w, x, offsets, INPUTS, BLOCK_I)
    for start in tl.range(BLOCK_I, INPUTS, BLOCK_I, num_stages=STAGES):
        w = load_chunks(weight, row_index * INPUTS, start + offsets, INPUTS, BLOCK_I)
        acc = add_columns(acc, w, x, start + offsets, INPUTS, BLOCK_I)
    store_row(tl.sum(acc, axis=0), b, residual, out, alpha, rows, OUTPUTS, GELU)


@triton.jit
def add_columns(acc, w, x, offsets, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return acc [C, BLOCK_O] + the products of weights w [C, BLOCK_O, N] and the activations at offsets [C, N]."""
    v = load_row(x, offsets, INPUTS, BLOCK_I).to(tl.float32)
    return acc + tl.sum(w.to(tl.float32) * v[:, None, :], axis=2)
