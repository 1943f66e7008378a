"""Operations that need torch alone, shared by both networks. An export puts this file beside a checkpoint.

    positions and masks     which two positions a token has, and which tokens it sees
    rotary positions        https://arxiv.org/abs/2104.09864
    low-bit weights         rounding, dequantization, products, the linear layer
    CUDA graphs             capture

Weights of 8 bits have one scale a row:               weight = number * scale                     number in -127..127
Those of 4 bits may have groups within a row as well: weight = (number * step + zero) * scale     number in -8..7

Numbers of 4 bits lie in pairs, the one of the even column in the high half of a byte, as in published files. torch's
own kernel for the CPU wants another order, which differs between processors: see `prepack`.
"""

import functools
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import SettingError


def positions_2d(
    index: torch.Tensor, context: torch.Tensor | int, mask_position: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the positions [..., 2, T] of the tokens with the indices `index` [..., T].

    Row 0 counts the context and stays at the mask token's place from <sop> on; row 1 counts from <sop>.

    Args:
        context: tokens before <sop>, [..., 1] or one number.
        mask_place: where [gMASK] or [MASK] stands, of the shape of `context` or `index`; by default directly before
            <sop>.
    """
    place = context - 1 if mask_position is None else mask_position
    return torch.stack((index.where(index < context, place), (index - context + 1).clamp(min=0)), dim=-2)


def prefix_mask(index: torch.Tensor, context: torch.Tensor | int) -> torch.Tensor:
    """Return [..., T, T], True where a row sees a column: the context, itself, and what comes before it.

    Args:
        index: [T], the numbers from 0 on.
        context: tokens before <sop>, [..., 1, 1] or one number.
    """
    return (index < context) | (index <= index[:, None])


ROTARY_BASE = 10000.0


def rotary_frequencies(dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the float32 frequencies [dim / 2] of a half head of width `dim`.

    They are rounded to half precision, as every half-precision run of the original has them.
    """
    exponents = torch.arange(0, dim, 2, device=device).float() / dim
    return (1.0 / ROTARY_BASE**exponents).half().float()


def rotary_tables(positions: torch.Tensor, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines [..., dim] of positions [...], for `apply_rotary` on half heads of width `dim`.

    The first half of the sines is negated. Angles are computed in float32: in half precision they would lose 0.5 rad
    above position 512.
    """
    angles = positions.float()[..., None] * rotary_frequencies(dim, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [..., head_dim], each half of a head by its own position.

    Numbers i and i + head_dim / 4 of a half turn together. `cos` and `sin` are those of `rotary_tables` for the first
    half of the head, then for the second.
    """
    partners = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * cos, partners, sin)


def apply_rotary_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Do the same in place and without gradients: in fewer operations, which counts for a few tokens on a CPU."""
    partners = x.index_select(-1, rotate_half_indices(x.shape[-1], x.device))
    return x.mul_(cos).addcmul_(partners, sin)


@functools.cache
def rotate_half_indices(head_dim: int, device: torch.device) -> torch.Tensor:
    """Return the places [head_dim] of the numbers that turn with each."""
    return torch.arange(head_dim, device=device).view(2, 2, -1).flip(-2).flatten()


# Of a float32 product on the CPU; with more rows it pays to make the weight whole first. Measured with matrices of
# 256 to 1,024 rows and columns.
MAX_INT8_KERNEL_ROWS = 8
# torch's kernel of 8 bits reads whole blocks of columns, beyond the end of a row that has a part of one.
COLUMN_BLOCK = 32
# torch's kernel of 4 bits takes rows by the dozen and groups of these sizes.
ROW_BLOCK = 16
GROUP_SIZES = (32, 64, 128, 256)
# It keeps rows in blocks, of a size that differs between processors and divides this one.
MAX_ROW_BLOCK = 256
# Rows of the identity that `undo_prepack` multiplies at once, so that it needs little memory.
UNPACK_COLUMNS = 512
# Elements of a weight that are made whole at once, so that a large one needs little memory beside itself.
DEQUANTIZE_ELEMENTS = 2**23


def pack_int4(qweight: torch.Tensor) -> torch.Tensor:
    """Pack 4-bit numbers, int8 [O, I], into bytes, int8 [O, I / 2]."""
    return (qweight[:, 0::2] << 4) | (qweight[:, 1::2] & 15)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Return the 4-bit numbers, int8 [O, I], of bytes [O, I / 2], each with its sign."""
    return torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(1)


def dequantize(
    qweight: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor | None, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the whole weight [O, I] in `dtype`.

    Args:
        numbers: int8 [O, I], or pairs [O, I / 2].
        scale: [O].
        groups: step and zero [O, G, 2] of groups of I / G columns; None for rows without.
        bits: 8 or 4.
    """
    dequantized = unpack_int4(qweight) if bits == 4 else qweight
    if groups is not None:
        step, zero = groups.to(dtype).unsqueeze(-1).unbind(2)  # each [O, G, 1]
        dequantized = torch.addcmul(zero, dequantized.view(*step.shape[:2], -1).to(dtype), step).flatten(1)
    return dequantized * scale.to(dtype)[:, None]


def quantized_linear(
    x: torch.Tensor,
    qweight: torch.Tensor,
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
    if bits == 8 and not needs_gradient(x) and supports_int8_kernel(rows):
        return scale_product(
            torch._weight_int8pack_mm(rows.to(torch.bfloat16), qweight, unit_scales(len(scale))), scale, bias, x
        )
    if bits == 8 and x.dtype == torch.float32:  # scaling the product costs less than scaling the weight
        return scale_product(rows @ qweight.to(x.dtype).t(), scale, bias, x)
    bias = None if bias is None else bias.to(x.dtype)
    height = max(1, DEQUANTIZE_ELEMENTS // x.shape[-1])
    out = x.new_empty(*x.shape[:-1], len(scale))
    for part in (slice(start, start + height) for start in range(0, len(scale), height)):
        dequantized = dequantize(qweight[part], scale[part], None if groups is None else groups[part], bits, x.dtype)
        out[..., part] = F.linear(x, dequantized, None if bias is None else bias[part])
    return out


@functools.cache
def unit_scales(count: int) -> torch.Tensor:
    """Return the scales that the kernel of 8 bits is given: it would round the true ones to bfloat16."""
    return torch.ones(count, dtype=torch.bfloat16, device="cpu")


def needs_gradient(x: torch.Tensor) -> bool:
    """Whether a gradient is to flow through x, which torch's kernels for weights of few bits do not let through."""
    return torch.is_grad_enabled() and x.requires_grad


def supports_int8_kernel(rows: torch.Tensor) -> bool:
    """Whether torch's CPU kernel of 8 bits takes rows [N, I], and beats a product with the whole weight."""
    if rows.device.type != "cpu" or rows.shape[1] % COLUMN_BLOCK:
        return False
    return rows.dtype != torch.float32 or len(rows) <= MAX_INT8_KERNEL_ROWS


def scale_product(
    product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor
) -> torch.Tensor:
    """Scale a product [N, O] and add the bias; return it with the dtype and the leading dimensions of x."""
    out = product * scale if bias is None else torch.addcmul(bias, product, scale)
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def can_prepack(columns: int, groups: torch.Tensor) -> bool:
    """Whether torch's CPU kernel takes 4-bit weights of so many columns in these groups [O, G, 2]."""
    return groups.device.type == "cpu" and columns // groups.shape[1] in GROUP_SIZES


def prepack(packed: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs [O, I / 2] and groups [O, G, 2] as torch's CPU kernel wants them, with rows up to a full block."""
    rows = -len(packed) % ROW_BLOCK
    height = max(1, DEQUANTIZE_ELEMENTS // (2 * packed.shape[1] * MAX_ROW_BLOCK)) * MAX_ROW_BLOCK
    prepacked = torch.cat([prepack_rows(part) for part in F.pad(packed, (0, 0, 0, rows)).split(height)])
    return prepacked, F.pad(groups, (0, 0, 0, 0, 0, rows)).to(torch.bfloat16).transpose(0, 1).contiguous()


def prepack_rows(packed: torch.Tensor) -> torch.Tensor:
    """Return pairs [O, I / 2] of whole blocks of rows as the CPU kernel wants them, which takes int32 [O, I]."""
    qweight = unpack_int4(packed).to(torch.int32).add_(8)
    prepacked: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(qweight, 1)
    return prepacked


def undo_prepack(prepacked: torch.Tensor, groups: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `prepack` for weights of `rows` rows. The order is the kernel's secret, so it is asked for each column."""
    plain = torch.zeros_like(groups)
    plain[..., 0] = 1
    columns = 2 * prepacked.shape[1]
    qweight = torch.empty(rows, columns, dtype=torch.int8)
    for start in range(0, columns, UNPACK_COLUMNS):
        asked = torch.arange(start, min(start + UNPACK_COLUMNS, columns))
        answer = multiply_prepacked(F.one_hot(asked, columns).to(torch.bfloat16), prepacked, plain)
        qweight[:, asked] = answer[:, :rows].t().to(torch.int8)
    return pack_int4(qweight), groups.transpose(0, 1)[:rows].contiguous()


def multiply_prepacked(x: torch.Tensor, prepacked: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return the product [N, O] of bfloat16 x [N, I] with weights that `prepack` returned, rows' scales left out."""
    size = x.shape[1] // len(groups)
    product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, prepacked, size, groups)
    return product


def prepacked_linear(
    x: torch.Tensor, prepacked: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what `quantized_linear` does, with weights of 4 bits that `prepack` returned; no gradient flows to x."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    return scale_product(multiply_prepacked(rows, prepacked, groups)[:, : len(scale)], scale, bias, x)


BITS = (8, 4)
QUANT_MAX = {4: 7, 8: 127}
QUANTIZED_LAYERS = (  # of each layer of the language model; all others keep their precision
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)


class QuantizedWeight(NamedTuple):
    """A low-bit weight.

    Attributes:
        numbers: int8 [O, I], or pairs [O, I / 2] of 4 bits.
        scale: [O], with values that half precision has.
        groups: step and zero, bfloat16 [O, G, 2], of groups of I / G columns; None without groups.
    """

    qweight: torch.Tensor
    scale: torch.Tensor
    groups: torch.Tensor | None = None


def check_bits(bits: int, columns: int = 2) -> None:
    """Raise SettingError unless weights with rows of so many columns can have so many bits."""
    if bits not in BITS:
        raise SettingError(f"Weights have 8 or 4 bits, not {bits!r}.")
    if bits == 4 and columns % 2:
        raise SettingError(f"Weights of 4 bits are stored in pairs, but a row has {columns} of them. Take 8 bits.")


def quantize_rows(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 numbers [O, I] and half-precision scales [O] whose product is close to weight [O, I]."""
    largest = QUANT_MAX[bits]
    scale = (weight.detach().abs().amax(dim=1).float() / largest).half()
    # A row of zeros, or of numbers too small for a half-precision scale, becomes zeros.
    divisor = scale.float().where(scale > 0, torch.inf)
    qweight = (weight.detach().float() / divisor[:, None]).round_().clamp_(-largest, largest)
    return qweight.to(torch.int8), scale


def quantize_per_channel(weight: torch.Tensor, bits: int) -> QuantizedWeight:
    """Return a weight [O, I] with one scale a row, as published files have it."""
    qweight, scale = quantize_rows(weight, bits)
    return QuantizedWeight(pack_int4(qweight) if bits == 4 else qweight, scale)


def frozen_parameter(tensor: torch.Tensor) -> nn.Parameter:
    """Return a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)


class QuantizedLinear(nn.Module):
    """A linear layer [..., I] -> [..., O] with low-bit weights, to be filled: the scales of a new one are zeros.

    `weight`, `weight_scale` and `weight_groups` are as of `QuantizedWeight`; a cast of the model keeps their dtypes.
    `prepack` exchanges the numbers for what this machine's kernel wants; a state dict never shows them so.

    Args:
        groups: G, the groups of columns within a row; 0 for none.
        scale_dtype: of the scales.

    Raises:
        SettingError: weights cannot have so many bits.
    """

    weight_groups: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bits: int,
        bias: nn.Parameter | None = None,
        device: torch.device | None = None,
        *,
        groups: int = 0,
        scale_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_bits(bits, inputs)
        self.in_features, self.out_features, self.bits = inputs, outputs, bits
        self.is_prepacked = self.is_loaded = False
        qweight = torch.empty(outputs, inputs * bits // 8, dtype=torch.int8, device=device)
        self.weight = frozen_parameter(qweight)  # checkpoint key
        self.weight_scale = frozen_parameter(torch.zeros(outputs, dtype=scale_dtype, device=device))  # checkpoint key
        steps = torch.zeros(outputs, groups, 2, dtype=torch.bfloat16, device=device) if groups else None
        self.register_parameter("weight_groups", None if steps is None else frozen_parameter(steps))
        self.register_parameter("bias", bias)  # checkpoint key

    @classmethod
    def from_quantized(cls, quantized_weight: QuantizedWeight, bits: int, bias: nn.Parameter | None = None) -> Self:
        """Return a layer with a rounded weight, on its device and ready to use."""
        rows, columns = quantized_weight.qweight.shape
        made = cls(columns * 8 // bits, rows, bits, bias, torch.device("meta"))
        made.set_weight(quantized_weight)
        made.prepack()
        return made

    def set_weight(self, quantized_weight: QuantizedWeight) -> None:
        """Take over a rounded weight."""
        self.weight, self.weight_scale = (
            frozen_parameter(quantized_weight.qweight),
            frozen_parameter(quantized_weight.scale),
        )
        self.weight_groups = None if quantized_weight.groups is None else frozen_parameter(quantized_weight.groups)
        self.is_prepacked = False

    def prepack(self) -> None:
        """Put the numbers, which are there by now, into the order of this machine's kernel, where it has one."""
        self.is_loaded = True
        if self.weight_groups is None or self.is_prepacked or not can_prepack(self.in_features, self.weight_groups):
            return
        self.weight, self.weight_groups = map(frozen_parameter, prepack(self.weight, self.weight_groups))
        self.is_prepacked = True

    def quantized_weight(self) -> QuantizedWeight:
        """Return the weight in its portable order."""
        qweight = self.weight.detach()
        groups = None if self.weight_groups is None else self.weight_groups.detach()
        if self.is_prepacked and groups is not None:
            qweight, groups = undo_prepack(qweight, groups, self.out_features)
        return QuantizedWeight(qweight, self.weight_scale.detach(), groups)

    def dequantized_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [O, I] in `dtype`."""
        return dequantize(*self.quantized_weight(), self.bits, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_prepacked:
            return quantized_linear(x, self.weight, self.weight_scale, self.weight_groups, self.bias, self.bits)
        if needs_gradient(x):
            return quantized_linear(x, *self.quantized_weight(), self.bias, self.bits)
        return prepacked_linear(x, self.weight, self.weight_scale, self.weight_groups, self.bias)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move to another device or dtype as a module does, numbers and scales without a change of dtype."""
        if self.is_prepacked:
            self.set_weight(self.quantized_weight())

        scale, groups = self.weight_scale, self.weight_groups

        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = function(tensor)
            is_kept = moved.dtype != tensor.dtype and (tensor is scale or tensor is groups)
            return tensor.to(moved.device) if is_kept else moved

        super()._apply(move, recurse)
        if self.is_loaded:
            self.prepack()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_prepacked:
            qweight, _, groups = self.quantized_weight()
            destination.update({f"{prefix}weight": qweight, f"{prefix}weight_groups": groups})

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.is_prepacked:
            self.set_weight(self.quantized_weight())
        super()._load_from_state_dict(*args, **kwargs)
        self.prepack()


def quantize_layers(layers: nn.ModuleList, bits: int) -> None:
    """Replace the linear layers of the language model's `layers` one by one, so that little memory is needed.

    Raises:
        SettingError: `bits` is not 4 or 8, or an adapter stands where a linear layer should.
    """
    for layer in layers:
        for name in QUANTIZED_LAYERS:
            linear: Any = layer.get_submodule(name)
            if type(linear) is not nn.Linear:
                raise SettingError(
                    f"{name} is a {type(linear).__name__}: quantise the model before adapters are attached."
                )
            check_bits(bits, linear.in_features)
            parent, _, last = name.rpartition(".")
            quantized_weight = QuantizedLinear.from_quantized(
                quantize_per_channel(linear.weight, bits), bits, linear.bias
            )
            setattr(layer.get_submodule(parent), last, quantized_weight)


T = TypeVar("T")
Restore = Callable[[], None]
# One at a time: memory of one must not be taken for another's.
capture_lock = threading.Lock()


def restore_nothing() -> None:
    """Undo what has no lasting effect."""


@functools.cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """Return the stream on which everything is recorded: cuBLAS keeps 32 MB for each that it was ever used on."""
    return torch.cuda.Stream(device)


@contextmanager
def exclusive_capture() -> Iterator[None]:
    """Warm up and record in the block: no other thread does, and no garbage is collected.

    A graph that nobody needs any more may wait for the collector; to destroy it would spoil the recording.
    """
    with capture_lock:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def capture(
    function: Callable[[], T], pool: Any = None, restore: Restore = restore_nothing
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record a function on the current device; return its graph, and what it returned while it was recorded.

    Args:
        function: is called twice: in the first call libraries allocate and choose kernels.
        pool: of another graph, whose memory is used again; the two must not run at the same time.
        undo: undoes the effects of the first call.

    Raises:
        RuntimeError: `function` does what cannot be recorded, such as waiting for the device.
    """
    with exclusive_capture():
        here, side = torch.cuda.current_stream(), capture_stream(torch.cuda.current_device())
        side.wait_stream(here)
        with torch.cuda.stream(side):
            function()
            restore()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            result = function()
    return graph, result
