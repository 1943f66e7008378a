"""Products with a packed 4-bit weight [O, I / 2], with group scales and zero points; see model/kernels/torch_ops.py.

Two activations, or the scale and zero point of a group, are loaded as one integer of twice their width, the first one
in its low half: so a thread holds the factors of the two numbers of a byte, without data exchange between threads.
"""

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
    split_pairs,
    store_row,
    store_rows,
    wait_for_inputs,
    weight_rows,
)

ADD_8 = tl.constexpr(-0x77777778)  # XORed with a word, adds 8 to each of its eight int4, which become unsigned


@triton.jit
def near_one(bits):
    """Convert the two numbers of a byte, each n + 8 for a signed int4 n, to floats in [1, 2).

    The byte starts at bit 15; the results are 1.5 + n / 16 for the high and 1.03125 + n / 256 for the low number.
    The numbers become the first and the second four mantissa bits of a float32 in [1, 2), which is faster than a
    conversion.
    """
    high, low = (bits & 0x780000) | 0x3F800000, (bits & 0x078000) | 0x3F800000
    return high.to(tl.float32, bitcast=True), low.to(tl.float32, bitcast=True)


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


@triton.jit(do_not_specialize=["rows"])
def matmul(
    x,
    packed,
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
    DTYPE: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_O: tl.constexpr,
    SPLIT_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply up to 16 rows; a program computes BLOCK_O rows of the weight and one of SPLIT_K group splits."""
    wait_for_inputs(PDL)
    BYTES: tl.constexpr = INPUTS // 2
    GROUPS: tl.constexpr = INPUTS // GROUP
    SPLIT: tl.constexpr = tl.cdiv(GROUPS, SPLIT_K)
    columns, row_index = weight_rows(OUTPUTS, BLOCK_O)
    first = tl.program_id(1) * SPLIT
    acc = tl.zeros((16, BLOCK_O), tl.float32)
    for step in tl.range(0, SPLIT, num_stages=STAGES):
        group_index = first + step
        offsets = group_index * (GROUP // 2) + tl.arange(0, GROUP // 2)
        even, odd = split_pairs(load_rows(x, offsets, rows, BYTES, SPLIT_K * GROUP // 2), DTYPE)
        block = load_block(packed, row_index * BYTES, offsets, BYTES, SPLIT_K * GROUP // 2)
        group = tl.load(groups + row_index * GROUPS + tl.minimum(group_index, GROUPS - 1))
        high, low = near_one((block.to(tl.int32) ^ ADD_8) << 15)
        group_scale, zero_point = split_floats(group[None, :], tl.bfloat16)
        high = high * (group_scale * 16) + (zero_point - group_scale * 24)
        low = low * (group_scale * 256) + (zero_point - group_scale * 264)
        acc = tl.dot(even, high.to(DTYPE), acc, input_precision="ieee")
        acc = tl.dot(odd, low.to(DTYPE), acc, input_precision="ieee")
    acc *= tl.load(scale + row_index)[None, :]
    store_rows(acc, bias, residual, out, partials, alpha, columns, rows, OUTPUTS, GELU, SPLIT_K)
