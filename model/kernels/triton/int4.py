"""Products with a weight of 4 bits, pairs [O, I / 2] with groups and a scale; see model/kernels/torch_ops.py.

Two activations, or the step and zero of a group, come as one integer of twice their width, the first in its low half:
so a thread has what belongs to the two numbers of a byte without any exchange with others.
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

ADD_8 = tl.constexpr(-0x77777778)  # to each of eight numbers of four bits, which then have no sign


@triton.jit
def near_one(bits):
    """Return the two numbers n + 8 of a byte that starts at bit 15, as 1.5 + n / 16 and as 1.03125 + n / 256.

    They become the first and the second four bits after the point of a float32 one: a conversion would take longer.
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
    """Multiply one row x of pairs [1, I / 2] by words [O, I / 8], BLOCK_O rows and BLOCK_I columns at a time.

    y = scale * sum over chunks of (step * sum n x + zero * sum x), a chunk being the 32 numbers that a thread reads at
    once, all of one group.
    """
    CHUNKS: tl.constexpr = BLOCK_I // 32
    WORDS: tl.constexpr = INPUTS // 8
    rows, first = weight_rows(OUTPUTS, BLOCK_O)
    chunks = tl.arange(0, CHUNKS)
    places = chunks[:, None] * 4 + tl.arange(0, 4)[None, :]
    pairs = chunks[:, None] * 16 + tl.arange(0, 16)[None, :]
    w = load_chunks(words, first * WORDS, places, WORDS, BLOCK_I // 8)
    group = load_groups(groups, first, chunks * 32 // GROUP, INPUTS // GROUP)
    b = bias if bias is None else load_bias(bias, rows, rows < OUTPUTS)
    unit = tl.load(scale + first)
    wait_for_inputs(PDL)
    sums = tl.zeros((CHUNKS, BLOCK_O), tl.float32)
    sums = add_columns(sums, w, group, x, pairs, INPUTS, DTYPE, BLOCK_I)
    for start in tl.range(BLOCK_I, INPUTS, BLOCK_I, num_stages=STAGES):
        w = load_chunks(words, first * WORDS, start // 8 + places, WORDS, BLOCK_I // 8)
        group = load_groups(groups, first, (start + chunks * 32) // GROUP, INPUTS // GROUP)
        sums = add_columns(sums, w, group, x, start // 2 + pairs, INPUTS, DTYPE, BLOCK_I)
    y = tl.sum(sums, axis=0) * unit
    store_row(y, b, residual, out, alpha, rows, OUTPUTS, GELU)


@triton.jit
def add_columns(sums, w, group, x, pairs, INPUTS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_I: tl.constexpr):
    """Return sums [C, BLOCK_O] + the products of words w [C, BLOCK_O, 4] in groups [C, BLOCK_O], and of activations.

    `pairs` [C, 16] say which.
    """
    w = w ^ ADD_8
    v = load_row(x, pairs, INPUTS // 2, BLOCK_I // 2)
    v02, v13 = split_evenly(v)
    v0, v2 = split_evenly(v02)
    v1, v3 = split_evenly(v13)
    e0, o0 = split_floats(v0, DTYPE)
    e1, o1 = split_floats(v1, DTYPE)
    e2, o2 = split_floats(v2, DTYPE)
    e3, o3 = split_floats(v3, DTYPE)
    whole = tl.sum(e0 + e1 + e2 + e3 + o0 + o1 + o2 + o3, axis=1)[:, None]
    products = tl.zeros(w.shape, tl.float32)
    products = add_product(products, w, o0, 0xF)
    products = add_product(products, w, e0, 0xF0)
    products = add_product(products, w, o1, 0xF00)
    products = add_product(products, w, e1, 0xF000)
    products = add_product(products, w >> 16, o2, 0xF)
    products = add_product(products, w >> 16, e2, 0xF0)
    products = add_product(products, w >> 16, o3, 0xF00)
    products = add_product(products, w >> 16, e3, 0xF000)
    step, zero = split_floats(group, tl.bfloat16)
    return sums + ((tl.sum(products, axis=2) * (1 / UNIT) - whole * 8) * step + whole * zero)


@triton.jit
def load_groups(groups, rows, number, GROUPS: tl.constexpr):
    """Load step and zero of groups `number` [C] in rows [BLOCK_O]: [C, BLOCK_O]; beyond the end, the last one's."""
    number = tl.minimum(number, GROUPS - 1)
    return tl.load(groups + rows[None, :] * GROUPS + number[:, None], eviction_policy="evict_first")


@triton.jit(do_not_specialize=["rows"])
def matmul(
    x,
    pairs,
    scale,
    groups,
    bias,
    residual,
    out,
    parts,
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
    """Multiply up to 16 rows; a program takes BLOCK_O rows of the weight and one of SPLITS shares of its groups."""
    wait_for_inputs(PDL)
    BYTES: tl.constexpr = INPUTS // 2
    GROUPS: tl.constexpr = INPUTS // GROUP
    SHARE: tl.constexpr = tl.cdiv(GROUPS, SPLIT_K)
    columns, first = weight_rows(OUTPUTS, BLOCK_O)
    begin = tl.program_id(1) * SHARE
    sums = tl.zeros((16, BLOCK_O), tl.float32)
    for number in tl.range(0, SHARE, num_stages=STAGES):
        number = begin + number
        places = number * (GROUP // 2) + tl.arange(0, GROUP // 2)
        even, odd = split_pairs(load_rows(x, places, rows, BYTES, SPLIT_K * GROUP // 2), DTYPE)
        block = load_block(pairs, first * BYTES, places, BYTES, SPLIT_K * GROUP // 2)
        group = tl.load(groups + first * GROUPS + tl.minimum(number, GROUPS - 1))
        high, low = near_one((block.to(tl.int32) ^ ADD_8) << 15)
        step, zero = split_floats(group[None, :], tl.bfloat16)
        high = high * (step * 16) + (zero - step * 24)
        low = low * (step * 256) + (zero - step * 264)
        sums = tl.dot(even, high.to(DTYPE), sums, input_precision="ieee")
        sums = tl.dot(odd, low.to(DTYPE), sums, input_precision="ieee")
    sums *= tl.load(scale + first)[None, :]
    store_rows(sums, bias, residual, out, parts, alpha, columns, rows, OUTPUTS, GELU, SPLIT_K)
