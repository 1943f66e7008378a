"""The product of activations and weights of few bits. Needs torch alone: an export puts this file beside a checkpoint.

Weights of 8 bits have one scale a row:               weight = number * scale                     number in -127..127
Those of 4 bits may have groups within a row as well: weight = (number * step + zero) * scale     number in -8..7

Numbers of 4 bits lie in pairs, the one of the even column in the high half of a byte, as in published files. torch's
own kernel for the CPU wants another order, which differs between processors: see `lay_out`.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SettingError

# Of a float32 product on the CPU; with more rows it pays to make the weight whole first. Measured with matrices of
# 256 to 1,024 rows and columns.
FEW_ROWS = 8
# torch's kernel of 8 bits reads whole blocks of columns, beyond the end of a row that has a part of one.
COLUMN_BLOCK = 32
# torch's kernel of 4 bits takes rows by the dozen and groups of these sizes.
ROW_BLOCK = 16
GROUP_SIZES = (32, 64, 128, 256)
# It keeps rows in blocks, of a size that differs between processors and divides this one.
ROW_BLOCKS = 256
# Rows of the identity that `take_back` multiplies at once, so that it needs little memory.
UNPACKED_AT_ONCE = 512
# Elements of a weight that are made whole at once, so that a large one needs little memory beside itself.
WHOLE_AT_ONCE = 2**23


def pack_pairs(numbers: torch.Tensor) -> torch.Tensor:
    """Pack 4-bit numbers, int8 [O, I], into bytes, int8 [O, I / 2]."""
    return (numbers[:, 0::2] << 4) | (numbers[:, 1::2] & 15)


def unpack_pairs(packed: torch.Tensor) -> torch.Tensor:
    """Return the 4-bit numbers, int8 [O, I], of bytes [O, I / 2], each with its sign."""
    return torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(1)


def dequantize(
    numbers: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor | None, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the whole weight [O, I] in `dtype`.

    Args:
        numbers: int8 [O, I], or pairs [O, I / 2].
        scale: [O].
        groups: step and zero [O, G, 2] of groups of I / G columns; None for rows without.
        bits: 8 or 4.
    """
    whole = unpack_pairs(numbers) if bits == 4 else numbers
    if groups is not None:
        step, zero = groups.to(dtype).unsqueeze(-1).unbind(2)  # each [O, G, 1]
        whole = torch.addcmul(zero, whole.view(*step.shape[:2], -1).to(dtype), step).flatten(1)
    return whole * scale.to(dtype)[:, None]


def quantized_linear(
    x: torch.Tensor,
    numbers: torch.Tensor,
    scale: torch.Tensor,
    groups: torch.Tensor | None,
    bias: torch.Tensor | None,
    bits: int,
) -> torch.Tensor:
    """Return x @ weight.T + bias, [..., O] in the dtype of x [..., I]; the weight is as of `dequantize`.

    A CPU multiplies few rows by weights of 8 bits without making them whole. Activations are then bfloat16 and sums
    float32, because torch has no fast kernel for others; the error is a fifth of that of the weights.
    """
    rows = x.reshape(-1, x.shape[-1])
    if bits == 8 and not wants_gradient(x) and suits_cpu_kernel(rows):
        return finish(torch._weight_int8pack_mm(rows.to(torch.bfloat16), numbers, ones(len(scale))), scale, bias, x)
    if bits == 8 and x.dtype == torch.float32:  # scaling the product costs less than scaling the weight
        return finish(rows @ numbers.to(x.dtype).t(), scale, bias, x)
    bias = None if bias is None else bias.to(x.dtype)
    height = max(1, WHOLE_AT_ONCE // x.shape[-1])
    out = x.new_empty(*x.shape[:-1], len(scale))
    for part in (slice(start, start + height) for start in range(0, len(scale), height)):
        whole = dequantize(numbers[part], scale[part], None if groups is None else groups[part], bits, x.dtype)
        out[..., part] = F.linear(x, whole, None if bias is None else bias[part])
    return out


@functools.cache
def ones(count: int) -> torch.Tensor:
    """Return the scales that the kernel of 8 bits is given: it would round the true ones to bfloat16."""
    return torch.ones(count, dtype=torch.bfloat16, device="cpu")


def wants_gradient(x: torch.Tensor) -> bool:
    """Whether a gradient is to flow through x, which torch's kernels for weights of few bits do not let through."""
    return torch.is_grad_enabled() and x.requires_grad


def suits_cpu_kernel(rows: torch.Tensor) -> bool:
    """Whether torch's CPU kernel of 8 bits takes rows [N, I], and beats a product with the whole weight."""
    if rows.device.type != "cpu" or rows.shape[1] % COLUMN_BLOCK:
        return False
    return rows.dtype != torch.float32 or len(rows) <= FEW_ROWS


def finish(product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """Scale a product [N, O] and add the bias; return it with the dtype and the leading dimensions of x."""
    out = product * scale if bias is None else torch.addcmul(bias, product, scale)
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def can_lay_out(columns: int, groups: torch.Tensor) -> bool:
    """Whether torch's CPU kernel takes 4-bit weights of so many columns in these groups [O, G, 2]."""
    return groups.device.type == "cpu" and columns // groups.shape[1] in GROUP_SIZES


def lay_out(pairs: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs [O, I / 2] and groups [O, G, 2] as torch's CPU kernel wants them, with rows up to a full block."""
    rows = -len(pairs) % ROW_BLOCK
    height = max(1, WHOLE_AT_ONCE // (2 * pairs.shape[1] * ROW_BLOCKS)) * ROW_BLOCKS
    laid = torch.cat([lay_out_rows(part) for part in F.pad(pairs, (0, 0, 0, rows)).split(height)])
    return laid, F.pad(groups, (0, 0, 0, 0, 0, rows)).to(torch.bfloat16).transpose(0, 1).contiguous()


def lay_out_rows(pairs: torch.Tensor) -> torch.Tensor:
    """Return pairs [O, I / 2] of whole blocks of rows as the CPU kernel wants them, which takes int32 [O, I]."""
    numbers = unpack_pairs(pairs).to(torch.int32).add_(8)
    laid: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)
    return laid


def take_back(laid: torch.Tensor, groups: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `lay_out` for weights of `rows` rows. The order is the kernel's secret, so it is asked for each column."""
    plain = torch.zeros_like(groups)
    plain[..., 0] = 1
    columns = 2 * laid.shape[1]
    numbers = torch.empty(rows, columns, dtype=torch.int8)
    for start in range(0, columns, UNPACKED_AT_ONCE):
        asked = torch.arange(start, min(start + UNPACKED_AT_ONCE, columns))
        answer = multiply_laid_out(F.one_hot(asked, columns).to(torch.bfloat16), laid, plain)
        numbers[:, asked] = answer[:, :rows].t().to(torch.int8)
    return pack_pairs(numbers), groups.transpose(0, 1)[:rows].contiguous()


def multiply_laid_out(x: torch.Tensor, laid: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return the product [N, O] of bfloat16 x [N, I] with weights that `lay_out` returned, rows' scales left out."""
    size = x.shape[1] // len(groups)
    product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, laid, size, groups)
    return product


def laid_out_linear(
    x: torch.Tensor, laid: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what `quantized_linear` does, with weights of 4 bits that `lay_out` returned; no gradient flows to x."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    return finish(multiply_laid_out(rows, laid, groups)[:, : len(scale)], scale, bias, x)


LARGEST = {4: 7, 8: 127}
LAYERS = (  # of each layer of the language model; all others keep their precision
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)


def quantize_rows(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 numbers [O, I] and half-precision scales [O] whose product is close to weight [O, I]."""
    largest = LARGEST[bits]
    scale = (weight.detach().abs().amax(dim=1).float() / largest).half()
    # A row of zeros, or of numbers too small for a half-precision scale, becomes zeros.
    divisor = scale.float().where(scale > 0, torch.inf)
    numbers = (weight.detach().float() / divisor[:, None]).round().clamp(-largest, largest)
    return numbers.to(torch.int8), scale


def round_weight(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of weight [O, I] as a layer holds them, and their scales [O]."""
    numbers, scale = quantize_rows(weight, bits)
    return (pack_pairs(numbers) if bits == 4 else numbers), scale


class QuantizedLinear(nn.Module):
    """A linear layer with weights of few bits, which a checkpoint is to fill."""

    def __init__(self, inputs: int, outputs: int, bits: int) -> None:
        super().__init__()
        if bits not in LARGEST:
            raise SettingError(f"Weights have 4 or 8 bits, not {bits!r}.")
        if bits == 4 and inputs % 2:
            raise SettingError(f"Weights of 4 bits are stored in pairs, but a row has {inputs} of them.")
        self.in_features, self.out_features, self.bits = inputs, outputs, bits
        packed = torch.empty(outputs, inputs * bits // 8, dtype=torch.int8)
        scale = torch.zeros(outputs, dtype=torch.float16)
        self.weight = nn.Parameter(packed, requires_grad=False)  # checkpoint key
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # checkpoint key
        self.bias = nn.Parameter(torch.zeros(outputs))  # checkpoint key

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int) -> "QuantizedLinear":
        """Return a quantised copy of `linear`, on its device."""
        with torch.device("meta"):
            made = cls(linear.in_features, linear.out_features, bits)
        numbers, scale = round_weight(linear.weight, bits)
        made.weight = nn.Parameter(numbers, requires_grad=False)
        made.weight_scale = nn.Parameter(scale, requires_grad=False)
        made.bias = linear.bias
        return made

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantizedLinear":
        scale = self.weight_scale.detach()
        super()._apply(fn, recurse)
        if not scale.is_meta:  # it follows the device, not the dtype: bfloat16 would lose some of its digits
            self.weight_scale = nn.Parameter(scale.to(self.weight.device), requires_grad=False)
        return self

    def whole_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [O, I] in `dtype`."""
        return dequantize(self.weight, self.weight_scale, None, self.bits, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x, self.weight, self.weight_scale, None, self.bias, self.bits)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


def quantize_layers(layers: nn.ModuleList, bits: int) -> None:
    """Replace the linear layers of the language model's `layers` one by one, so that little memory is needed.

    Raises:
        SettingError: `bits` is not 4 or 8, or an adapter stands where a linear layer should.
    """
    for layer in layers:
        for name in LAYERS:
            linear: Any = layer.get_submodule(name)
            if type(linear) is not nn.Linear:
                raise SettingError(
                    f"{name} is a {type(linear).__name__}: quantise the model before adapters are attached."
                )
            parent, _, last = name.rpartition(".")
            setattr(layer.get_submodule(parent), last, QuantizedLinear.from_linear(linear, bits))
