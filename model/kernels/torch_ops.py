"""Operations that need torch alone, shared by both networks. An export puts this file beside a checkpoint.

    positions and masks     which two positions a token has, and which tokens it sees
    rotary positions        https://arxiv.org/abs/2104.09864
    low-bit weights         rounding, dequantization, products, the linear layer
    CUDA graphs             capture

Weights of 8 bits have one scale a row:               weight = number * scale                     number in -127..127
Those of 4 bits may have groups within a row as well: weight = (number * step + zero) * scale     number in -8..7

Numbers of 4 bits lie in pairs, the one of the even column in the high half of a byte, as in published files. torch's
own kernel for the CPU wants another order, which differs between processors: see `lay_out`.
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
    index: torch.Tensor, context: torch.Tensor | int, mask_place: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the positions [..., 2, T] of the tokens with the indices `index` [..., T].

    Row 0 counts the context and stays at the mask token's place from <sop> on; row 1 counts from <sop>.

    Args:
        context: tokens before <sop>, [..., 1] or one number.
        mask_place: where [gMASK] or [MASK] stands, of the shape of `context` or `index`; by default directly before
            <sop>.
    """
    place = context - 1 if mask_place is None else mask_place
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
    """Return the cosines and sines [..., dim] for positions [...], by which `rotate` turns a half head of width `dim`.

    The first half of the sines is negated. Angles are computed in float32: in half precision they would lose 0.5 rad
    above position 512.
    """
    angles = positions.float()[..., None] * rotary_frequencies(dim, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn x [..., head_dim], each half of a head by its own position.

    Numbers i and i + head_dim / 4 of a half turn together. `cos` and `sin` are those of `rotary_tables` for the first
    half of the head, then for the second.
    """
    partners = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * cos, partners, sin)


def rotate_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Do the same in place and without gradients: in fewer operations, which counts for a few tokens on a CPU."""
    partners = x.index_select(-1, partner_order(x.shape[-1], x.device))
    return x.mul_(cos).addcmul_(partners, sin)


@functools.cache
def partner_order(head_dim: int, device: torch.device) -> torch.Tensor:
    """Return the places [head_dim] of the numbers that turn with each."""
    return torch.arange(head_dim, device=device).view(2, 2, -1).flip(-2).flatten()


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
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)  # type: ignore[no-any-return]


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
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, laid, size, groups)  # type: ignore[no-any-return]


def laid_out_linear(
    x: torch.Tensor, laid: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what `quantized_linear` does, with weights of 4 bits that `lay_out` returned; no gradient flows to x."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    return finish(multiply_laid_out(rows, laid, groups)[:, : len(scale)], scale, bias, x)


BITS = (8, 4)
LARGEST = {4: 7, 8: 127}
LAYERS = (  # of each layer of the language model; all others keep their precision
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)


class Rounded(NamedTuple):
    """A low-bit weight.

    Attributes:
        numbers: int8 [O, I], or pairs [O, I / 2] of 4 bits.
        scale: [O], with values that half precision has.
        groups: step and zero, bfloat16 [O, G, 2], of groups of I / G columns; None without groups.
    """

    numbers: torch.Tensor
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
    largest = LARGEST[bits]
    scale = (weight.detach().abs().amax(dim=1).float() / largest).half()
    # A row of zeros, or of numbers too small for a half-precision scale, becomes zeros.
    divisor = scale.float().where(scale > 0, torch.inf)
    numbers = (weight.detach().float() / divisor[:, None]).round_().clamp_(-largest, largest)
    return numbers.to(torch.int8), scale


def round_weight(weight: torch.Tensor, bits: int) -> Rounded:
    """Return a weight [O, I] with one scale a row, as published files have it."""
    numbers, scale = quantize_rows(weight, bits)
    return Rounded(pack_pairs(numbers) if bits == 4 else numbers, scale)


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """Return a parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)


class QuantizedLinear(nn.Module):
    """A linear layer [..., I] -> [..., O] with low-bit weights, to be filled: the scales of a new one are zeros.

    `weight`, `weight_scale` and `weight_groups` are as of `Rounded`, and keep their dtypes whatever the model is cast
    to. `lay_out` exchanges the numbers for what this machine's kernel wants; a state dict never shows them so.

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
        self.is_laid_out = self.is_filled = False
        numbers = torch.empty(outputs, inputs * bits // 8, dtype=torch.int8, device=device)
        self.weight = frozen(numbers)  # checkpoint key
        self.weight_scale = frozen(torch.zeros(outputs, dtype=scale_dtype, device=device))  # checkpoint key
        steps = torch.zeros(outputs, groups, 2, dtype=torch.bfloat16, device=device) if groups else None
        self.register_parameter("weight_groups", None if steps is None else frozen(steps))
        self.register_parameter("bias", bias)  # checkpoint key

    @classmethod
    def of(cls, rounded: Rounded, bits: int, bias: nn.Parameter | None = None) -> Self:
        """Return a layer with a rounded weight, on its device and ready to use."""
        rows, columns = rounded.numbers.shape
        made = cls(columns * 8 // bits, rows, bits, bias, torch.device("meta"))
        made.set_weight(rounded)
        made.lay_out()
        return made

    def set_weight(self, rounded: Rounded) -> None:
        """Take over a rounded weight."""
        self.weight, self.weight_scale = frozen(rounded.numbers), frozen(rounded.scale)
        self.weight_groups = None if rounded.groups is None else frozen(rounded.groups)
        self.is_laid_out = False

    def lay_out(self) -> None:
        """Put the numbers, which are there by now, into the order of this machine's kernel, where it has one."""
        self.is_filled = True
        if self.weight_groups is None or self.is_laid_out or not can_lay_out(self.in_features, self.weight_groups):
            return
        self.weight, self.weight_groups = map(frozen, lay_out(self.weight, self.weight_groups))
        self.is_laid_out = True

    def rounded(self) -> Rounded:
        """Return the weight in its portable order."""
        numbers = self.weight.detach()
        groups = None if self.weight_groups is None else self.weight_groups.detach()
        if self.is_laid_out and groups is not None:
            numbers, groups = take_back(numbers, groups, self.out_features)
        return Rounded(numbers, self.weight_scale.detach(), groups)

    def whole_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [O, I] in `dtype`."""
        return dequantize(*self.rounded(), self.bits, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_laid_out:
            return quantized_linear(x, self.weight, self.weight_scale, self.weight_groups, self.bias, self.bits)
        if wants_gradient(x):
            return quantized_linear(x, *self.rounded(), self.bias, self.bits)
        return laid_out_linear(x, self.weight, self.weight_scale, self.weight_groups, self.bias)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move to another device or dtype as a module does, numbers and scales without a change of dtype."""
        if self.is_laid_out:
            self.set_weight(self.rounded())

        scale, groups = self.weight_scale, self.weight_groups

        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = function(tensor)
            is_kept = moved.dtype != tensor.dtype and (tensor is scale or tensor is groups)
            return tensor.to(moved.device) if is_kept else moved

        super()._apply(move, recurse)
        if self.is_filled:
            self.lay_out()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_laid_out:
            numbers, _, groups = self.rounded()
            destination.update({f"{prefix}weight": numbers, f"{prefix}weight_groups": groups})

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.is_laid_out:
            self.set_weight(self.rounded())
        super()._load_from_state_dict(*args, **kwargs)
        self.lay_out()


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
            check_bits(bits, linear.in_features)
            parent, _, last = name.rpartition(".")
            rounded = QuantizedLinear.of(round_weight(linear.weight, bits), bits, linear.bias)
            setattr(layer.get_submodule(parent), last, rounded)


T = TypeVar("T")
Undo = Callable[[], None]
# One at a time: memory of one must not be taken for another's.
turn = threading.Lock()


def nothing() -> None:
    """Undo what has no lasting effect."""


@functools.cache
def side_stream(device: int) -> torch.cuda.Stream:
    """Return the stream on which everything is recorded: cuBLAS keeps 32 MB for each that it was ever used on."""
    return torch.cuda.Stream(device)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Warm up and record in the block: no other thread does, and no garbage is collected.

    A graph that nobody needs any more may wait for the collector; to destroy it would spoil the recording.
    """
    with turn:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


def record(function: Callable[[], T], pool: Any = None, undo: Undo = nothing) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record a function on the current device; return its graph, and what it returned while it was recorded.

    Args:
        function: is called twice: in the first call libraries allocate and choose kernels.
        pool: of another graph, whose memory is used again; the two must not run at the same time.
        undo: undoes the effects of the first call.

    Raises:
        RuntimeError: `function` does what cannot be recorded, such as waiting for the device.
    """
    with undisturbed():
        here, side = torch.cuda.current_stream(), side_stream(torch.cuda.current_device())
        side.wait_stream(here)
        with torch.cuda.stream(side):
            function()
            undo()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            result = function()
    return graph, result
