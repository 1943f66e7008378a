"""Rotary angles on a GPU, in Triton."""

import triton
import triton.language as tl


@triton.jit
def rotated(base, offsets, cos, sin, QUARTER: tl.constexpr, mask):
    """Load numbers at `offsets` behind `base` and turn them; number i turns with number i xor QUARTER."""
    x = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    partner = tl.load(base + (offsets ^ QUARTER), mask=mask, other=0.0).to(tl.float32)
    return x * cos + partner * sin
