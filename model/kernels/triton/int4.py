"""Products of one row with a packed 4-bit weight [O, I / 2], with group scales and zero points.

Two activations, or the scale and zero point of a group, are loaded as one integer of twice their width, the first one
in its low half: so a thread holds the factors of the two numbers of a byte, without data exchange between threads.
"""

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
from .unpack import ADD_8


@triton.jit
def matvec(
    x,
    words,
    scale,
    groups,
    bias,
    residual,
    out,
    alpha,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    DTYPE: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply one row x of pairs [1, I / 2] by the words [O, I / 8] of the weight.

    A program computes BLOCK_O rows of the weight, BLOCK_I columns per iteration.

    y = scale * sum over chunks of (group_scale * sum n x + zero_point * sum x). A chunk is the 32 numbers, all of one
    group, that a thread loads at once.
    """
    CHUNKS: tl.constexpr = BLOCK_I // 32
    WORDS: tl.constexpr = INPUTS // 8
    rows, row_index = weight_rows(OUTPUTS, BLOCK_O)
    chunks = tl.arange(0, CHUNKS)
    offsets = chunks[:, None] * 4 + tl.arange(0, 4)[None, :]
    pair_offsets = chunks[:, None] * 16 + tl.arange(0, 16)[None, :]
    w = load_chunks(words, row_index * WORDS, offsets, WORDS, BLOCK_I // 8)
    group = load_groups(groups, row_index, chunks * 32 // GROUP, INPUTS // GROUP)
    b = bias if bias is None else load_bias(bias, rows, rows < OUTPUTS)
    row_scale = tl.load(scale + row_index)
    wait_for_inputs(PDL)
    acc = tl.zeros((CHUNKS, BLOCK_O), tl.float32)
    acc = add_columns(acc, w, group, x, pair_offsets, INPUTS, DTYPE, BLOCK_I)
    for start in tl.range(BLOCK_I, INPUTS, BLOCK_I, num_stages=STAGES):
        w = load_chunks(words, row_index * WORDS, start // 8 + offsets, WORDS, BLOCK_I // 8)
        group = load_groups(groups, row_index, (start + chunks * 32) // GROUP, INPUTS // GROUP)
        acc = add_columns(acc, w, group, x, start // 2 + pair_offsets, INPUTS, DTYPE, BLOCK_I)
    y = tl.sum(acc, axis=0) * row_scale
    store_row(y, b, residual, out, alpha, rows, OUTPUTS, GELU)


@triton.jit
def add_columns(acc, w, group, x, pair_offsets, INPUTS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return acc [C, BLOCK_O] + the products of a tile of the weight and its activations.

    The weight's words are w [C, BLOCK_O, 4], its group scales and zero points `group` [C, BLOCK_O]; the pairs of
    activations are loaded at `pair_offsets` [C, 16].
    """
    w = w ^ ADD_8
    v = load_row(x, pair_offsets, INPUTS // 2, BLOCK_I // 2)
    v02, v13 = split_evenly(v)
    v0, v2 = split_evenly(v02)
    v1, v3 = split_evenly(v13)
    e0, o0 = split_floats(v0, DTYPE)
    e1, o1 = split_floats(v1, DTYPE)
    e2, o2 = split_floats(v2, DTYPE)
    e3, o3 = split_floats(v3, DTYPE)
    sum_x = tl.sum(e0 + e1 + e2 + e3 + o0 + o1 + o2 + o3, axis=1)[:, None]
    products = tl.zeros(w.shape, tl.float32)
    products = add_product(products, w, o0, 0xF)
    products = add_product(products, w, e0, 0xF0)
    products = add_product(products, w, o1, 0xF00)
    products = add_product(products, w, e1, 0xF000)
    products = add_product(products, w >> 16, o2, 0xF)
    products = add_product(products, w >> 16, e2, 0xF0)
    products = add_product(products, w >> 16, o3, 0xF00)
    products = add_product(products, w >> 16, e3, 0xF000)
    group_scale, zero_point = split_floats(group, tl.bfloat16)
    return acc + ((tl.sum(products, axis=2) * (1 / UNIT) - sum_x * 8) * group_scale + sum_x * zero_point)


@triton.jit
def load_groups(groups, rows, group_index, GROUPS: tl.constexpr):
    """Load the scales and zero points of groups [C] in rows [BLOCK_O]: [C, BLOCK_O]; the last one's beyond the end."""
    group_index = tl.minimum(group_index, GROUPS - 1)
    return tl.load(groups + rows[None, :] * GROUPS + group_index[:, None], eviction_policy="evict_first")
