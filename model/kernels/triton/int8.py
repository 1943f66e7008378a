"""Products of one row with an 8-bit weight, int8 [O, I] with a float32 scale [O]; see model/kernels/torch_ops.py."""

import triton
import triton.language as tl

from .tiles import (
    UNIT,
    add_product,
    load_bias,
    load_chunks,
    load_row,
    split_evenly,
    split_floats,
    store_row,
    wait_for_inputs,
    weight_rows,
)

ADD_128 = tl.constexpr(-0x7F7F7F80)  # XORed with a word, adds 128 to each of its four int8, which become unsigned


@triton.jit
def matvec(
    x,
    words,
    scale,
    bias,
    residual,
    out,
    alpha,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    DTYPE: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply one row x of pairs [1, I / 2] by the words [O, I / 4] of the weight.

    A program computes BLOCK_O rows of the weight, BLOCK_I columns per iteration.

    y = scale * sum over the bytes m of a word of (sum n_m x_m).
    """
    WORDS: tl.constexpr = INPUTS // 4
    rows, row_index = weight_rows(OUTPUTS, BLOCK_O)
    chunks = tl.arange(0, BLOCK_I // 16)[:, None]
    offsets = chunks * 4 + tl.arange(0, 4)[None, :]
    pair_offsets = chunks * 8 + tl.arange(0, 8)[None, :]
    w = load_chunks(words, row_index * WORDS, offsets, WORDS, BLOCK_I // 4)
    b = bias if bias is None else load_bias(bias, rows, rows < OUTPUTS)
    row_scale = tl.load(scale + row_index)
    wait_for_inputs(PDL)
    acc = tl.zeros((BLOCK_I // 16, BLOCK_O, 4), tl.float32)
    acc = add_columns(acc, w, x, pair_offsets, INPUTS, DTYPE, BLOCK_I)
    for start in tl.range(BLOCK_I, INPUTS, BLOCK_I, num_stages=STAGES):
        w = load_chunks(words, row_index * WORDS, start // 4 + offsets, WORDS, BLOCK_I // 4)
        acc = add_columns(acc, w, x, start // 2 + pair_offsets, INPUTS, DTYPE, BLOCK_I)
    y = tl.sum(tl.sum(acc, axis=2), axis=0) * (row_scale / UNIT)
    store_row(y, b, residual, out, alpha, rows, OUTPUTS, GELU)


@triton.jit
def add_columns(acc, w, x, pair_offsets, INPUTS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return acc + the products of words w, both [C, BLOCK_O, 4], and activation pairs at offsets [C, 8]."""
    w = w ^ ADD_128
    v = load_row(x, pair_offsets, INPUTS // 2, BLOCK_I // 2)
    first_half, second_half = split_evenly(v)
    v0, v1 = split_floats(first_half, DTYPE)
    v2, v3 = split_floats(second_half, DTYPE)
    acc -= (v0 + v1 + v2 + v3)[:, None, :] * (128 * UNIT)
    acc = add_product(acc, w, v0, 0xFF)
    acc = add_product(acc, w, v1, 0xFF00)
    acc = add_product(acc, w >> 16, v2, 0xFF)
    return add_product(acc, w >> 16, v3, 0xFF00)
