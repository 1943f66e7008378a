"""Load tiles of activations and weights; apply the epilogue to sums and store them."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

UNIT = tl.constexpr(2.0**-85)  # unit of the sums of `add_product`


@triton.jit
def weight_rows(OUTPUTS: tl.constexpr, BLOCK_O: tl.constexpr):
    """Return this program's rows of the weight [BLOCK_O], and the row indices to load, which are always valid.

    Rows beyond the end load row 0 instead and are not stored, so that loads need no mask. If OUTPUTS is a multiple of
    BLOCK_O, there are no such rows, and the addresses of the rows differ by constants, which saves computing them.
    """
    rows = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    if OUTPUTS % BLOCK_O == 0:
        return rows, rows.to(tl.int64)
    return rows, tl.where(rows < OUTPUTS, rows, 0).to(tl.int64)


@triton.jit
def load_row(x, offsets, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load activations at offsets [C, N], zero beyond the end of the row."""
    if INPUTS % BLOCK_I == 0:
        return tl.load(x + offsets)
    return tl.load(x + offsets, mask=offsets < INPUTS, other=0)


@triton.jit
def split_pairs(pairs, DTYPE: tl.constexpr):
    """Return the low and the high halves of integers, reinterpreted as DTYPE of half their width."""
    if DTYPE.primitive_bitwidth == 32:
        low, high = pairs.to(tl.int32), (pairs >> 32).to(tl.int32)
    else:
        low, high = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    return low.to(DTYPE, bitcast=True), high.to(DTYPE, bitcast=True)


@triton.jit
def split_floats(pairs, DTYPE: tl.constexpr):
    """Return the halves of `split_pairs`, converted to float32."""
    low, high = split_pairs(pairs, DTYPE)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit
def split_evenly(v):
    """Return the even and the odd columns of v [C, N], each [C, N / 2]."""
    return tl.split(v.reshape(v.shape[0], v.shape[1] // 2, 2))


@triton.jit
def add_product(acc, words, v, MASK: tl.constexpr):
    """Return acc + n * v * 2^-85 for the numbers n that MASK selects in words [C, BLOCK_O, 4], and v [C, 4].

    The bits of a small integer n, read as float32, are the subnormal number n * 2^-149: so no conversion is needed.
    Activations of 2^63 and more, which float16 cannot represent, overflow.
    """
    LARGE: tl.constexpr = 2.0**64 / (MASK & -MASK)  # scales v up, so that the products are not subnormal
    return acc + (words & MASK).to(tl.float32, bitcast=True) * (v * LARGE)[:, None, :]


@triton.jit
def load_chunks(weight, starts, offsets, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load weights at offsets [C, N] of the rows that start at `starts` [BLOCK_O]: [C, BLOCK_O, N].

    The chunks are the first dimension, because Triton then lets neighboring threads read neighboring chunks.
    Each weight is read once, so the loads are marked to be evicted from the cache first.
    """
    pointers = weight + starts[None, :, None] + offsets[:, None, :]
    if INPUTS % BLOCK_I == 0:
        return tl.load(pointers, eviction_policy="evict_first")
    return tl.load(pointers, mask=offsets[:, None, :] < INPUTS, other=0, eviction_policy="evict_first")


@triton.jit
def load_rows(x, row, columns, rows, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load rows [BLOCK_B] and columns [BLOCK_I] of x; rows from `rows` on, and columns beyond the end, are zero."""
    mask = (row < rows)[:, None]
    if INPUTS % BLOCK_I != 0:
        mask = mask & (columns[None, :] < INPUTS)
    return tl.load(x + row[:, None] * INPUTS + columns[None, :], mask=mask, other=0)


@triton.jit
def load_block(weight, starts, columns, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load columns [BLOCK_I] of the weight's rows that start at `starts` [BLOCK_O]: [BLOCK_O, BLOCK_I]."""
    pointers = weight + starts[:, None] + columns[None, :]
    if INPUTS % BLOCK_I == 0:
        return tl.load(pointers, eviction_policy="evict_first")
    return tl.load(pointers, mask=columns[None, :] < INPUTS, other=0, eviction_policy="evict_first")


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """With PDL, signal dependent kernels that they may launch, then wait for the writes of preceding kernels."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def wait_before_dependents(PDL: tl.constexpr):
    """With PDL, wait for the writes of preceding kernels, then signal dependent kernels that they may launch.

    For a kernel whose dependents load, before they wait, what its predecessors write.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def load_bias(bias, columns, mask):
    """Load the bias of `columns`, zero where `mask` is False."""
    return tl.load(bias + columns, mask=mask, other=0.0)


@triton.jit
def apply_epilogue(acc, b, residual, alpha, offsets, mask, GELU: tl.constexpr):
    """Return act(acc + b) + alpha * residual in float32.

    b is the bias of these sums, or None. The residual is loaded at `offsets`, where `mask` is True.
    """
    if b is not None:
        acc += b.to(tl.float32)
    if GELU == "exact":  # x * (1 + erf(x / sqrt(2))) / 2
        acc = acc * 0.5 * (1.0 + tl.erf(acc * 0.7071067811865476))
    elif GELU is not None:  # x * (1 + tanh(z)) / 2 is x * sigmoid(2 z), z = sqrt(2 / pi) * (x + 0.044715 x^3)
        two_z = 1.5957691216057308 * (acc + 0.044715 * acc * acc * acc)
        acc = acc * tl.sigmoid(tl.maximum(two_z, -80.0))  # the limit keeps the exponential finite
    if residual is not None:
        acc += alpha * tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    return acc


@triton.jit
def store_row(acc, b, residual, out, alpha, columns, OUTPUTS: tl.constexpr, GELU: tl.constexpr):
    """Apply the epilogue to sums [BLOCK_O] of a single row and store them; b is their bias, or None."""
    mask = columns < OUTPUTS
    y = apply_epilogue(acc, b, residual, alpha, columns, mask, GELU)
    tl.store(out + columns, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def store_rows(
    acc,
    bias,
    residual,
    out,
    partials,
    alpha,
    row,
    columns,
    rows,
    OUTPUTS: tl.constexpr,
    GELU: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """Apply the epilogue to sums [BLOCK_B, BLOCK_O] and store them; with split-K, store partial sums.

    Rows from `rows` on are not stored.
    """
    row = row[:, None]
    columns = columns[None, :] + row * 0
    mask = (row < rows) & (columns < OUTPUTS)
    offsets = row * OUTPUTS + columns
    if SPLIT_K == 1:
        b = bias if bias is None else load_bias(bias, columns, mask)
        y = apply_epilogue(acc, b, residual, alpha, offsets, mask, GELU)
        tl.store(out + offsets, y.to(out.dtype.element_ty), mask=mask)
    else:
        tl.store(partials + tl.program_id(1) * rows * OUTPUTS + offsets, acc, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def reduce_splits(
    partials,
    bias,
    residual,
    out,
    alpha,
    rows,
    OUTPUTS: tl.constexpr,
    GELU: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PDL: tl.constexpr,
):
    """Add up the partial sums [SPLIT_K, rows, O] in a fixed order, and apply the epilogue."""
    wait_for_inputs(PDL)
    columns = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    row = tl.program_id(1)
    mask = columns < OUTPUTS
    offsets = row * OUTPUTS + columns
    acc = tl.zeros((BLOCK_O,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        acc += tl.load(partials + split * rows * OUTPUTS + offsets, mask=mask, other=0.0)
    b = bias if bias is None else load_bias(bias, columns, mask)
    y = apply_epilogue(acc, b, residual, alpha, offsets, mask, GELU)
    tl.store(out + offsets, y.to(out.dtype.element_ty), mask=mask)
