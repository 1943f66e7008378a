"""Dequantize tiles of 8-bit and 4-bit weights in registers.

For float16, a conversion takes one or two instructions for two numbers: the bits of an unsigned number below 1024,
put into the mantissa of 1024.0, are 1024 + the number. The compiler does not find these instructions itself, so they
are written in PTX; `PTX` is False for other dtypes and in Triton's interpreter.
"""

import triton
import triton.language as tl

ADD_8 = tl.constexpr(-0x77777778)  # XORed with a word, adds 8 to each of its eight int4, which become unsigned

# In both programs, operand $4 or $2 holds four bytes. `prmt` spreads two of them over the halves of a register, `lop3`
# with 0x6a computes (a & b) ^ c, which selects the number, adds 8 to a signed one, and sets the exponent of 1024.
UNPACK_4_BITS = tl.constexpr("""{
.reg .b32 first, second, bias, scale, shifted_bias;
mov.b32 bias, 0x64086408;          // 1024 + 8
mov.b32 scale, 0x2c002c00;         // 1 / 16
mov.b32 shifted_bias, 0xd480d480;  // -(1024 / 16 + 8)
prmt.b32 first, $4, 0, 0x4140;
prmt.b32 second, $4, 0, 0x4342;
lop3.b32 $0, first, 0x00f000f0, 0x64806480, 0x6a;
lop3.b32 $1, second, 0x00f000f0, 0x64806480, 0x6a;
lop3.b32 $2, first, 0x000f000f, 0x64086408, 0x6a;
lop3.b32 $3, second, 0x000f000f, 0x64086408, 0x6a;
fma.rn.f16x2 $0, $0, scale, shifted_bias;
fma.rn.f16x2 $1, $1, scale, shifted_bias;
sub.f16x2 $2, $2, bias;
sub.f16x2 $3, $3, bias;
}""")
UNPACK_8_BITS = tl.constexpr("""{
.reg .b32 unsigned, bias;
mov.b32 bias, 0x64806480;  // 1024 + 128
xor.b32 unsigned, $2, 0x80808080;
prmt.b32 $0, unsigned, 0x64646464, 0x4140;
prmt.b32 $1, unsigned, 0x64646464, 0x4342;
sub.f16x2 $0, $0, bias;
sub.f16x2 $1, $1, bias;
}""")


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
def unpack_int8(numbers, DTYPE: tl.constexpr, PTX: tl.constexpr):
    """Convert int8 numbers [O, N] to DTYPE."""
    if PTX:
        floats = tl.inline_asm_elementwise(UNPACK_8_BITS, "=&r,=&r,r", [numbers], tl.float16, is_pure=True, pack=4)
    else:
        floats = numbers.to(tl.float32).to(DTYPE)  # Triton's interpreter cannot convert int8 to bfloat16
    return floats


@triton.jit
def dequantize_int4(packed, group_scale, zero_point, DTYPE: tl.constexpr, PTX: tl.constexpr):
    """Return number * group_scale + zero_point in DTYPE, [O, 2 N], rounded once.

    The packed bytes are [O, N], the float32 scales and zero points [O, 1].
    """
    if PTX:
        high, low = tl.inline_asm_elementwise(
            UNPACK_4_BITS, "=&r,=&r,=&r,=&r,r", [packed], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
        factor, offset = group_scale.to(tl.float16), zero_point.to(tl.float16)
        high, low = high * factor + offset, low * factor + offset
    else:
        high, low = near_one((packed.to(tl.int32) ^ ADD_8) << 15)
        high = (high * (group_scale * 16) + (zero_point - group_scale * 24)).to(DTYPE)
        low = (low * (group_scale * 256) + (zero_point - group_scale * 264)).to(DTYPE)
    return tl.join(high, low).reshape(packed.shape[0], 2 * packed.shape[1])
