"""Layer norm, one row per program."""

import triton
import triton.language as tl

from .tiles import wait_for_inputs


@triton.jit
def layer_norm(x, added, weight, bias, total, out, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Store the layer norm of one row of x [B, D], with weight [D] and bias [D].

    With `added` [B, D], normalize x + added instead, and store that sum in `total` [B, D].
    """
    column = tl.arange(0, BLOCK)
    mask = column < COLUMNS
    offsets = tl.program_id(0) * COLUMNS + column
    w = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    v = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if added is not None:
        v = (v + tl.load(added + offsets, mask=mask, other=0.0).to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + offsets, v, mask=mask)
        v = v.to(tl.float32)
    centered = tl.where(mask, v - tl.sum(v, axis=0) / COLUMNS, 0.0)
    deviation = tl.sqrt(tl.sum(centered * centered, axis=0) / COLUMNS + eps)
    tl.store(out + offsets, (centered / deviation * w + b).to(out.dtype.element_ty), mask=mask)
