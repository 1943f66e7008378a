"""Layer norm, a row a program."""

import triton
import triton.language as tl

from .tiles import wait_for_inputs


@triton.jit
def layer_norm(x, weight, bias, out, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Store the norm of one row of x [B, D] times weight [D] plus bias [D]."""
    column = tl.arange(0, BLOCK)
    within = column < COLUMNS
    place = tl.program_id(0) * COLUMNS + column
    w = tl.load(weight + column, mask=within, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=within, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    v = tl.load(x + place, mask=within, other=0.0).to(tl.float32)
    centred = tl.where(within, v - tl.sum(v, axis=0) / COLUMNS, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / COLUMNS + eps)
    tl.store(out + place, (centred / deviation * w + b).to(out.dtype.element_ty), mask=within)
