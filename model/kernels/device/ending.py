"""What follows the sums of a product: bias, GELU and residual; and the sums of products that were split."""

import triton
import triton.language as tl


@triton.jit
def finish(sums, bias, residual, alpha, columns, places, within, GELU: tl.constexpr):
    """Return act(sums + bias) + alpha * residual, in float32.

    `columns` say where in the bias, `places` where in the residual; what is not `within` is not read.
    """
    if bias is not None:
        sums += tl.load(bias + columns, mask=within, other=0.0).to(tl.float32)
    if GELU:  # x * (1 + tanh(z)) / 2 is x * sigmoid(2 z), z = sqrt(2 / pi) * (x + 0.044715 x^3)
        twice = 1.5957691216057308 * (sums + 0.044715 * sums * sums * sums)
        sums = sums * tl.sigmoid(tl.maximum(twice, -80.0))  # whose exponential is still finite
    if residual is not None:
        sums += alpha * tl.load(residual + places, mask=within, other=0.0).to(tl.float32)
    return sums


@triton.jit
def store_row(sums, bias, residual, out, alpha, columns, OUTPUTS: tl.constexpr, GELU: tl.constexpr):
    """Finish and store sums [BLOCK_O] of the only row."""
    within = columns < OUTPUTS
    y = finish(sums, bias, residual, alpha, columns, columns, within, GELU)
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
        y = finish(sums, bias, residual, alpha, columns, places, within, GELU)
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
):
    """Add up the parts [SPLITS, rows, O] of a split product, always in the same order, and finish it."""
    columns = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    row = tl.program_id(1)
    within = columns < OUTPUTS
    places = row * OUTPUTS + columns
    sums = tl.zeros((BLOCK_O,), tl.float32)
    for part in tl.static_range(SPLITS):
        sums += tl.load(parts + part * rows * OUTPUTS + places, mask=within, other=0.0)
    y = finish(sums, bias, residual, alpha, columns, places, within, GELU)
    tl.store(out + places, y.to(out.dtype.element_ty), mask=within)
