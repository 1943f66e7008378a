"""Products with a weight of 8 bits, int8 [O, I] with a float32 scale [O]; see model/kernels/torch_ops.py."""

import triton
import triton.language as tl

from .tiles import (
    UNIT,
    add_product,
    load_bias,
    load_block,
    load_chunks,
    load_row,
    load_rows,
    split_evenly,
    split_floats,
    store_row,
    store_rows,
    wait_for_inputs,
    weight_rows,
)

ADD_128 = tl.constexpr(-0x7F7F7F80)  # to each of four numbers of eight bits, which then have no sign


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
    """Multiply one row x [1, I] by words [O, I / 4]; a program takes BLOCK_O of their rows, BLOCK_I columns at a time.

    y = scale * sum over the bytes m of a word of (sum n_m x_m).
    """
    WORDS: tl.constexpr = INPUTS // 4
    rows, first = weight_rows(OUTPUTS, BLOCK_O)
    chunks = tl.arange(0, BLOCK_I // 16)[:, None]
    places = chunks * 4 + tl.arange(0, 4)[None, :]
    pairs = chunks * 8 + tl.arange(0, 8)[None, :]
    w = load_chunks(words, first * WORDS, places, WORDS, BLOCK_I // 4)
    b = bias if bias is None else load_bias(bias, rows, rows < OUTPUTS)
    unit = tl.load(scale + first)
    wait_for_inputs(PDL)
    sums = tl.zeros((BLOCK_I // 16, BLOCK_O, 4), tl.float32)
    sums = add_columns(sums, w, x, pairs, INPUTS, DTYPE, BLOCK_I)
    for start in tl.range(BLOCK_I, INPUTS, BLOCK_I, num_stages=STAGES):
        w = load_chunks(words, first * WORDS, start // 4 + places, WORDS, BLOCK_I // 4)
        sums = add_columns(sums, w, x, start // 2 + pairs, INPUTS, DTYPE, BLOCK_I)
    y = tl.sum(tl.sum(sums, axis=2), axis=0) * (unit / UNIT)
    store_row(y, b, residual, out, alpha, rows, OUTPUTS, GELU)


@triton.jit
def add_columns(sums, w, x, pairs, INPUTS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return sums + the products of words w, both [C, BLOCK_O, 4], and pairs of activations at `pairs` [C, 8]."""
    w = w ^ ADD_128
    v = load_row(x, pairs, INPUTS // 2, BLOCK_I // 2)
    first_half, second_half = split_evenly(v)
    v0, v1 = split_floats(first_half, DTYPE)
    v2, v3 = split_floats(second_half, DTYPE)
    sums -= (v0 + v1 + v2 + v3)[:, None, :] * (128 * UNIT)
    sums = add_product(sums, w, v0, 0xFF)
    sums = add_product(sums, w, v1, 0xFF00)
    sums = add_product(sums, w >> 16, v2, 0xFF)
    return add_product(sums, w >> 16, v3, 0xFF00)


@triton.jit(do_not_specialize=["rows"])
def matmul(
    x,
    numbers,
    scale,
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
        n = load_block(numbers, first * INPUTS, places, INPUTS, SPLIT_K * BLOCK_I)
        sums = tl.dot(v, n.to(v.dtype), sums, input_precision="ieee")
    sums *= tl.load(scale + first)[None, :]
    store_rows(sums, bias, residual, out, parts, alpha, columns, rows, OUTPUTS, GELU, SPLIT_K)
