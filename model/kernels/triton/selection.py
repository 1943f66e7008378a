"""Select the largest of a row's numbers within one program.

Floats are compared by their keys: int32 numbers of the same order, in which NaN is the largest. `MISSING` stands for a
number that does not exist.
"""

import triton
import triton.language as tl

MISSING = tl.constexpr(-(2**31))
NAN_KEY = tl.constexpr(2**31 - 1)  # all bits but the sign


@triton.jit
def to_keys(x):
    """Return the keys of float32 numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(x != x, NAN_KEY, bits ^ ((bits >> 31) & NAN_KEY))


@triton.jit
def to_floats(keys):
    """Return the float32 numbers of keys."""
    return (keys ^ ((keys >> 31) & NAN_KEY)).to(tl.float32, bitcast=True)


@triton.jit
def find_threshold(keys, lowest, COUNT: tl.constexpr):
    """Return a threshold that exactly COUNT of the keys [N] reach, or if equal keys prevent that, the COUNT-th largest.

    At least COUNT keys must reach `lowest`.
    """
    low, high = lowest.to(tl.int64), tl.max(keys, 0).to(tl.int64)
    while low < high:
        middle = low + (high - low + 1) // 2
        count = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), 0)
        low = tl.where(count >= COUNT, middle, low)
        high = tl.where(count == COUNT, middle, tl.where(count > COUNT, high, middle - 1))
    return low.to(tl.int32)


@triton.jit
def place_largest(keys, threshold, COUNT: tl.constexpr):
    """Return the index of each of the COUNT largest keys in a compact array.

    The result [N] is COUNT or more for other keys. Of equal keys, the first are taken. The threshold is that of
    `find_threshold`.
    """
    above, equal = (keys > threshold).to(tl.int32), (keys == threshold).to(tl.int32)
    counts = tl.cumsum(above | (equal << 16), 0)  # both in one scan: neither exceeds 2^15
    place = tl.where(above > 0, counts & 0xFFFF, tl.sum(above, 0) + (counts >> 16)) - 1
    return tl.where((above | equal) > 0, place, COUNT)


@triton.jit
def pack(keys, ids):
    """Return int64 numbers that are ordered by key, and among equal keys the lowest id is the largest."""
    return (keys.to(tl.int64) << 32) | (ids ^ NAN_KEY).to(tl.int64)


@triton.jit
def unpack(words):
    """Return the keys and ids of `pack`."""
    return (words >> 32).to(tl.int32), (words & NAN_KEY).to(tl.int32) ^ NAN_KEY
