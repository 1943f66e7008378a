"""Load tiles of activations and weights, and finish products: sums, bias, GELU and residual."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

UNIT = tl.constexpr(2.0**-85)  # of the sums of `add_product`


@triton.jit
def weight_rows(OUTPUTS: tl.constexpr, BLOCK_O: tl.constexpr):
    """Return the rows of the weight [BLOCK_O] that this program multiplies by, and where they start to be read.

    Those beyond the end read the first row, which is there, and are not stored: so no load needs a mask.
    Where there are none, the rows' addresses differ by constants, which saves their computing.
    """
    rows = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    if OUTPUTS % BLOCK_O == 0:
        return rows, rows.to(tl.int64)
    return rows, tl.where(rows < OUTPUTS, rows, 0).to(tl.int64)


@triton.jit
def load_row(x, places, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load activations at places [C, N], zero beyond the end of the row."""
    if INPUTS % BLOCK_I == 0:
        return tl.load(x + places)
    return tl.load(x + places, mask=places < INPUTS, other=0)


@triton.jit
def split_pairs(pairs, DTYPE: tl.constexpr):
    """Return what the low and the high halves of integers hold, as DTYPE of half their width."""
    if DTYPE.primitive_bitwidth == 32:
        low, high = pairs.to(tl.int32), (pairs >> 32).to(tl.int32)
    else:
        low, high = pairs.to(tl.int16), (pairs >> 16).to(tl.int16)
    return low.to(DTYPE, bitcast=True), high.to(DTYPE, bitcast=True)


@triton.jit
def split_floats(pairs, DTYPE: tl.constexpr):
    """Return the same as float32."""
    low, high = split_pairs(pairs, DTYPE)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit
def split_evenly(v):
    """Return [C, N / 2] of v [C, N], twice: every other column."""
    return tl.split(v.reshape(v.shape[0], v.shape[1] // 2, 2))


@triton.jit
def add_product(sums, words, v, MASK: tl.constexpr):
    """Return sums + n * v * 2^-85, for the numbers n that MASK leaves of words [C, BLOCK_O, 4], and v [C, 4].

    The bits of a small integer are those of the float32 that is 2^-149 times as large: so no conversion is needed.
    Activations of 2^63 and more, which float16 does not have, overflow.
    """
    LARGE: tl.constexpr = 2.0**64 / (MASK & -MASK)  # by which v is multiplied, so that products are not so small
    return sums + (words & MASK).to(tl.float32, bitcast=True) * (v * LARGE)[:, None, :]


@triton.jit
def load_chunks(weight, starts, places, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load weights at places [C, N] of the rows that begin at `starts` [BLOCK_O]: [C, BLOCK_O, N].

    The chunks are the first dimension because Triton then lets neighbouring threads read neighbouring chunks.
    Each weight is read once, so it shall not drive anything else out of the cache.
    """
    tile = weight + starts[None, :, None] + places[:, None, :]
    if INPUTS % BLOCK_I == 0:
        return tl.load(tile, eviction_policy="evict_first")
    return tl.load(tile, mask=places[:, None, :] < INPUTS, other=0, eviction_policy="evict_first")


@triton.jit
def load_rows(x, columns, rows, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load x [16, BLOCK_I] from columns [BLOCK_I] on; rows from `rows` on, and columns beyond the end, are zero."""
    row = tl.arange(0, 16)[:, None]
    within = row < rows
    if INPUTS % BLOCK_I != 0:
        within = within & (columns[None, :] < INPUTS)
    return tl.load(x + row * INPUTS + columns[None, :], mask=within, other=0)


@triton.jit
def load_block(weight, starts, columns, INPUTS: tl.constexpr, BLOCK_I: tl.constexpr):
    """Load columns [BLOCK_I] of the weight's rows that begin at `starts` [BLOCK_O], transposed: [BLOCK_I, BLOCK_O]."""
    tile = weight + starts[None, :] + columns[:, None]
    if INPUTS % BLOCK_I == 0:
        return tl.load(tile, eviction_policy="evict_first")
    return tl.load(tile, mask=columns[:, None] < INPUTS, other=0, eviction_policy="evict_first")


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Let the next kernel start as this one has, then wait until all the kernels before have written everything."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def load_bias(bias, columns, within):
    """Load the bias of `columns`, which there is; what is not `within` is not read."""
    return tl.load(bias + columns, mask=within, other=0.0)


@triton.jit
def apply_epilogue(sums, b, residual, alpha, places, within, GELU: tl.constexpr):
    """Return act(sums + b) + alpha * residual, in float32; b is the bias's part for these sums, or None.

    `places` say where in the residual; what is not `within` is not read.
    """
    if b is not None:
        sums += b.to(tl.float32)
    if GELU:  # x * (1 + tanh(z)) / 2 is x * sigmoid(2 z), z = sqrt(2 / pi) * (x + 0.044715 x^3)
        twice = 1.5957691216057308 * (sums + 0.044715 * sums * sums * sums)
        sums = sums * tl.sigmoid(tl.maximum(twice, -80.0))  # whose exponential is still finite
    if residual is not None:
        sums += alpha * tl.load(residual + places, mask=within, other=0.0).to(tl.float32)
    return sums


@triton.jit
def store_row(sums, b, residual, out, alpha, columns, OUTPUTS: tl.constexpr, GELU: tl.constexpr):
    """Finish and store sums [BLOCK_O] of the only row, b being their bias or None."""
    within = columns < OUTPUTS
    y = apply_epilogue(sums, b, residual, alpha, columns, within, GELU)
    tl.store(out + columns, y.to(out.dtype.element_ty), mask=within)


@triton.jit
def store_rows(
    sums,
    bias,
    residual,
    out,
    parts,
    alpha,
    columns,
    rows,
    OUTPUTS: tl.constexpr,
    GELU: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """Finish and store sums [16, BLOCK_O] of the first `rows` rows; of a split product, store them as its part."""
    row = tl.arange(0, 16)[:, None]
    columns = columns[None, :] + row * 0
    within = (row < rows) & (columns < OUTPUTS)
    places = row * OUTPUTS + columns
    if SPLIT_K == 1:
        b = bias if bias is None else load_bias(bias, columns, within)
        y = apply_epilogue(sums, b, residual, alpha, places, within, GELU)
        tl.store(out + places, y.to(out.dtype.element_ty), mask=within)
    else:
        tl.store(parts + tl.program_id(1) * rows * OUTPUTS + places, sums, mask=within)


@triton.jit(do_not_specialize=["rows"])
def reduce_splits(
    parts,
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
    """Add up the parts [SPLITS, rows, O] of a split product, always in the same order, and finish it."""
    wait_for_inputs(PDL)
    columns = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    row = tl.program_id(1)
    within = columns < OUTPUTS
    places = row * OUTPUTS + columns
    sums = tl.zeros((BLOCK_O,), tl.float32)
    for part in tl.static_range(SPLIT_K):
        sums += tl.load(parts + part * rows * OUTPUTS + places, mask=within, other=0.0)
    b = bias if bias is None else load_bias(bias, columns, within)
    y = apply_epilogue(sums, b, residual, alpha, places, within, GELU)
    tl.store(out + places, y.to(out.dtype.element_ty), mask=within)
