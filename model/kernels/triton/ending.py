"""What follows the sums of a product: bias, GELU and residual; and the sums of products that were split."""

import triton
import triton.language as tl

from .early import wait_for_inputs


@triton.jit
def load_bias(bias, columns, within):
    """Load the bias of `columns`, which there is; what is not `within` is not read."""
    return tl.load(bias + columns, mask=within, other=0.0)


@triton.jit
def finish(sums, b, residual, alpha, places, within, GELU: tl.constexpr):
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
    y = finish(sums, b, residual, alpha, columns, within, GELU)
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
    SPLITS: tl.constexpr,
):
    """Finish and store sums [16, BLOCK_O] of the first `rows` rows; of a split product, store them as its part."""
    row = tl.arange(0, 16)[:, None]
    columns = columns[None, :] + row * 0
    within = (row < rows) & (columns < OUTPUTS)
    places = row * OUTPUTS + columns
    if SPLITS == 1:
        b = bias if bias is None else load_bias(bias, columns, within)
        y = finish(sums, b, residual, alpha, places, within, GELU)
        tl.store(out + places, y.to(out.dtype.element_ty), mask=within)
    else:
        tl.store(parts + tl.program_id(1) * rows * OUTPUTS + places, sums, mask=within)


@triton.jit(do_not_specialize=["rows"])
def add_parts(
    parts,
    bias,
    residual,
    out,
    alpha,
    rows,
    OUTPUTS: tl.constexpr,
    GELU: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Add up the parts [SPLITS, rows, O] of a split product, always in the same order, and finish it."""
    wait_for_inputs(EARLY)
    columns = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    row = tl.program_id(1)
    within = columns < OUTPUTS
    places = row * OUTPUTS + columns
    sums = tl.zeros((BLOCK_O,), tl.float32)
    for part in tl.static_range(SPLITS):
        sums += tl.load(parts + part * rows * OUTPUTS + places, mask=within, other=0.0)
    b = bias if bias is None else load_bias(bias, columns, within)
    y = finish(sums, b, residual, alpha, places, within, GELU)
    tl.store(out + places, y.to(out.dtype.element_ty), mask=within)
