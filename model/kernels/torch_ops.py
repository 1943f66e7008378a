"""Operations that need torch alone and that both networks share. An export copies this file into the checkpoint.

    positions and masks     two-dimensional positions, and the prefix mask
    rotary positions        RoPE, https://arxiv.org/abs/2104.09864
    low-bit weights         quantization, dequantization, matrix products, the linear layer
    CUDA graphs             capture

8-bit weights have one scale per row: weight = number * scale, number in -127..127. 4-bit weights may have groups of
columns, too: weight = (number * group_scale + zero_point) * scale, number in -8..7. Two 4-bit numbers are packed into a
byte, the even column in the high half, as in published files. `prepack` converts them for torch's own CPU kernel.
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
    """Return the two-dimensional positions [..., 2, T] of the tokens with the indices `index` [..., T].

    Row 0 is the index within the context, and stays at the mask token's position from <sop> on. Row 1 is 0 in the
    context and counts from 1 at <sop>.

    Args:
        context: context length, which is the number of tokens before <sop>: [..., 1] or one number.
        mask_position: index of [gMASK] or [MASK], of the shape of `context` or `index`; None for the last token of the
            context.
    """
    position = context - 1 if mask_position is None else mask_position
    return torch.stack((index.where(index < context, position), (index - context + 1).clamp(min=0)), dim=-2)


def prefix_mask(index: torch.Tensor, context: torch.Tensor | int) -> torch.Tensor:
    """Return the prefix mask [..., T, T] of `index` [T], 0 to T - 1: True where a row attends to a column.

    Attention is bidirectional within the context, and causal after it.

    Args:
        context: context length, [..., 1, 1] or one number.
    """
    return (index < context) | (index <= index[:, None])


ROTARY_BASE = 10000.0


def rotary_frequencies(dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the rotary frequencies, float32 [dim / 2], of a half head of width `dim`.

    They are rounded to half precision, as in every half-precision run of the original.
    """
    exponents = torch.arange(0, dim, 2, device=device).float() / dim
    return (1.0 / ROTARY_BASE**exponents).half().float()


def rotary_tables(positions: torch.Tensor, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines [..., dim] of positions [...], for `apply_rotary` on half heads of width `dim`.

    The first half of the sines is negated. Angles are computed in float32: half precision would be off by up to 0.5 rad
    above position 512.
    """
    angles = positions.float()[..., None] * rotary_frequencies(dim, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions (RoPE) to x [..., head_dim], where each half of a head has its own position.

    Within a half, numbers i and i + head_dim / 4 are rotated together.

    Args:
        cos: cosines of `rotary_tables`, first for the first half of the head, then for the second half.
        sin: sines of `rotary_tables`, in the same order.
    """
    partners = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * cos, partners, sin)


# Maximum rows of float32 activations for torch's 8-bit CPU kernel; for more rows, dequantizing the weight first is
# faster. Measured with matrices of 256 to 1,024 rows and columns.
MAX_INT8_KERNEL_ROWS = 8
# Torch's 8-bit CPU kernel reads complete blocks of columns, even beyond the end of a row.
COLUMN_BLOCK = 32
# Torch's 4-bit CPU kernel needs a multiple of these rows, and one of these group sizes.
ROW_BLOCK = 16
GROUP_SIZES = (32, 64, 128, 256)
# The 4-bit kernel stores rows in blocks; the block size depends on the processor and divides this number.
MAX_ROW_BLOCK = 256
# Rows of the identity matrix that `undo_prepack` multiplies at once, to limit its memory.
UNPACK_COLUMNS = 512
# Elements of a weight that are dequantized at once, to limit the memory for a large weight.
DEQUANTIZE_ELEMENTS = 2**23
# Elements of a weight that are quantized or prepacked at once: per thread of a CPU, so that temporary tensors stay in
# its cache; on other devices, to limit their memory.
CPU_BLOCK_ELEMENTS, BLOCK_ELEMENTS = 2**18, 2**24


def row_blocks(weight: torch.Tensor, columns: int, multiple: int = 1) -> Iterator[slice]:
    """Yield the rows of `weight`, of `columns` numbers each, that are processed at once, a multiple of `multiple`."""
    on_cpu = weight.device.type == "cpu"
    elements = CPU_BLOCK_ELEMENTS * torch.get_num_threads() if on_cpu else BLOCK_ELEMENTS
    height = max(1, elements // (columns * multiple)) * multiple
    return (slice(start, start + height) for start in range(0, len(weight), height))


def pack_int4(qweight: torch.Tensor) -> torch.Tensor:
    """Pack 4-bit numbers, int8 [O, I], into bytes, int8 [O, I / 2]."""
    return (qweight[:, 0::2] << 4) | (qweight[:, 1::2] & 15)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Unpack bytes, int8 [O, I / 2], into signed 4-bit numbers, int8 [O, I]."""
    return torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(1)


def dequantize(
    qweight: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor | None, bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the dequantized weight [O, I] in `dtype`.

    Args:
        qweight: int8 [O, I], or packed 4-bit numbers [O, I / 2].
        scale: [O].
        groups: group scales and zero points [O, G, 2] of groups of I / G columns; None without groups.
        bits: 8 or 4.
        dtype: of the result.
    """
    dequantized = unpack_int4(qweight) if bits == 4 else qweight
    if groups is not None:
        group_scale, zero_point = groups.to(dtype).unsqueeze(-1).unbind(2)  # each [O, G, 1]
        grouped = dequantized.unflatten(1, (group_scale.shape[1], -1)).to(dtype)
        dequantized = torch.addcmul(zero_point, grouped, group_scale).flatten(1)
    return dequantized * scale.to(dtype)[:, None]


def quantized_linear(
    x: torch.Tensor,
    qweight: torch.Tensor,
    scale: torch.Tensor,
    groups: torch.Tensor | None,
    bias: torch.Tensor | None,
    bits: int,
) -> torch.Tensor:
    """Return x @ weight.T + bias, [..., O] in the dtype of x [..., I]; for the weight see `dequantize`.

    On a CPU, few rows are multiplied by 8-bit weights without dequantizing them. Torch's only fast kernel for that
    takes bfloat16 activations and sums in float32; its error is a fifth of the quantization error of the weights.
    """
    rows = x.reshape(-1, x.shape[-1])
    if bits == 8 and not needs_gradient(x) and supports_int8_kernel(rows):
        product = torch._weight_int8pack_mm(rows.to(torch.bfloat16), qweight, unit_scales(len(scale)))
        return scale_product(product, scale, bias, x)
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
    """Return scales of 1, bfloat16 [count], for torch's 8-bit kernel, which would round real scales to bfloat16."""
    return torch.ones(count, dtype=torch.bfloat16, device="cpu")


def needs_gradient(x: torch.Tensor) -> bool:
    """Return whether x needs a gradient, which torch's and Triton's low-bit kernels do not compute."""
    return torch.is_grad_enabled() and x.requires_grad


def supports_int8_kernel(rows: torch.Tensor) -> bool:
    """Return whether torch's 8-bit CPU kernel supports rows [N, I] and is faster than dequantizing the weight."""
    is_faster = rows.dtype != torch.float32 or len(rows) <= MAX_INT8_KERNEL_ROWS
    return is_faster and rows.device.type == "cpu" and rows.shape[1] % COLUMN_BLOCK == 0


def scale_product(
    product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor
) -> torch.Tensor:
    """Scale a product [N, O] and add the bias; return it with the dtype and leading dimensions of x."""
    out = product * scale if bias is None else torch.addcmul(bias, product, scale)
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def can_prepack(columns: int, groups: torch.Tensor) -> bool:
    """Return whether torch's CPU kernel supports 4-bit weights with these columns and groups [O, G, 2]."""
    return groups.device.type == "cpu" and columns // groups.shape[1] in GROUP_SIZES


def prepack(packed: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a packed weight [O, I / 2] and its groups [O, G, 2], padded, to the layout of torch's CPU kernel."""
    padding = -len(packed) % ROW_BLOCK
    padded = F.pad(packed, (0, 0, 0, padding))
    blocks = row_blocks(padded, 2 * packed.shape[1], MAX_ROW_BLOCK)
    prepacked = torch.cat([prepack_rows(padded[block]) for block in blocks])
    return prepacked, F.pad(groups, (0, 0, 0, 0, 0, padding)).to(torch.bfloat16).transpose(0, 1).contiguous()


def prepack_rows(packed: torch.Tensor) -> torch.Tensor:
    """Return a packed weight [O, I / 2], of complete row blocks, in the layout of torch's CPU kernel."""
    qweight = unpack_int4(packed).to(torch.int32).add_(8)
    prepacked: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(qweight, 1)
    return prepacked


def undo_prepack(prepacked: torch.Tensor, groups: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `prepack` for a weight of `rows` rows.

    The kernel does not document its layout, so the columns are recovered as products with the identity matrix.
    """
    unit_groups = torch.zeros_like(groups)
    unit_groups[..., 0] = 1
    columns = 2 * prepacked.shape[1]
    qweight = torch.empty(rows, columns, dtype=torch.int8)
    for start in range(0, columns, UNPACK_COLUMNS):
        chunk = torch.arange(start, min(start + UNPACK_COLUMNS, columns))
        product = multiply_prepacked(F.one_hot(chunk, columns).to(torch.bfloat16), prepacked, unit_groups)
        qweight[:, chunk] = product[:, :rows].t().to(torch.int8)
    return pack_int4(qweight), groups.transpose(0, 1)[:rows].contiguous()


def multiply_prepacked(x: torch.Tensor, prepacked: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return the unscaled product [N, O] of x, bfloat16 [N, I], and a weight of `prepack`."""
    size = x.shape[1] // len(groups)
    product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, prepacked, size, groups)
    return product


def prepacked_linear(
    x: torch.Tensor, prepacked: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Compute `quantized_linear` with a 4-bit weight of `prepack`; not differentiable."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    return scale_product(multiply_prepacked(rows, prepacked, groups)[:, : len(scale)], scale, bias, x)


BITS = (8, 4)
QUANT_MAX = {4: 7, 8: 127}
# `quantize_layers` quantizes these in each layer of the language model, and nothing else.
QUANTIZED_LAYERS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


class QuantizedWeight(NamedTuple):
    """A low-bit weight.

    Attributes:
        qweight: int8 [O, I], or packed 4-bit numbers [O, I / 2].
        scale: [O], rounded to half precision.
        groups: group scales and zero points, bfloat16 [O, G, 2], of groups of I / G columns; None without groups.
    """

    qweight: torch.Tensor
    scale: torch.Tensor
    groups: torch.Tensor | None = None


def check_bits(bits: int, columns: int = 2) -> None:
    """Raise SettingError unless a weight with this number of columns can be quantized to `bits` bits."""
    if bits not in BITS:
        raise SettingError(f"Weights are quantized to 8 or 4 bits, not {bits!r}.")
    if bits == 4 and columns % 2:
        raise SettingError(f"4-bit weights are packed in pairs, but a row has {columns} of them. Use 8 bits.")


def quantize_rows(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight [O, I] to int8 numbers [O, I] with one half-precision scale per row [O]."""
    largest = QUANT_MAX[bits]
    qweight = torch.empty_like(weight, dtype=torch.int8)
    scale = torch.empty(len(weight), dtype=torch.half, device=weight.device)
    for block in row_blocks(weight, weight.shape[1]):
        rows = weight[block].detach().float()
        scale[block] = rows.abs().amax(dim=1) / largest
        # A row of zeros, or of numbers too small for a half-precision scale, is quantized to zeros.
        divisor = scale[block].float().where(scale[block] > 0, torch.inf)
        qweight[block] = (rows / divisor[:, None]).round_().clamp_(-largest, largest)
    return qweight, scale


def quantize_per_channel(weight: torch.Tensor, bits: int) -> QuantizedWeight:
    """Quantize a weight [O, I] with one scale per row, the format of published files."""
    qweight, scale = quantize_rows(weight, bits)
    return QuantizedWeight(pack_int4(qweight) if bits == 4 else qweight, scale)


def frozen_parameter(tensor: torch.Tensor) -> nn.Parameter:
    """Return a parameter without a gradient."""
    return nn.Parameter(tensor, requires_grad=False)


class QuantizedLinear(nn.Module):
    """A linear layer [..., I] -> [..., O] with a low-bit weight.

    A new layer has scales of zero until it is loaded. For `weight`, `weight_scale` and `weight_groups`, see
    `QuantizedWeight`; casting the model keeps their dtypes. `prepack` converts the weight to the layout of this
    machine's kernel; a state dict always has the portable layout.

    Args:
        inputs: I.
        outputs: O.
        bits: 8 or 4.
        bias: [O], or None.
        device: of the new weight.
        groups: G, groups of columns within a row; 0 for none.
        scale_dtype: dtype of the scales.

    Raises:
        SettingError: the weight cannot be quantized to `bits` bits.
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
        parameters = torch.zeros(outputs, groups, 2, dtype=torch.bfloat16, device=device) if groups else None
        self.register_parameter("weight_groups", None if parameters is None else frozen_parameter(parameters))
        self.register_parameter("bias", bias)  # checkpoint key

    @classmethod
    def from_quantized(cls, quantized: QuantizedWeight, bits: int, bias: nn.Parameter | None = None) -> Self:
        """Return a layer with a quantized weight, on the device of the weight and ready to use."""
        rows, columns = quantized.qweight.shape
        layer = cls(columns * 8 // bits, rows, bits, bias, torch.device("meta"))
        layer.set_weight(quantized)
        layer.prepack()
        return layer

    def set_weight(self, quantized: QuantizedWeight) -> None:
        """Replace the weight."""
        self.weight, self.weight_scale = frozen_parameter(quantized.qweight), frozen_parameter(quantized.scale)
        self.weight_groups = None if quantized.groups is None else frozen_parameter(quantized.groups)
        self.is_prepacked = False

    def prepack(self) -> None:
        """Convert the loaded weight to the layout of this machine's CPU kernel, if that supports it."""
        self.is_loaded = True
        if self.weight_groups is None or self.is_prepacked or not can_prepack(self.in_features, self.weight_groups):
            return
        self.weight, self.weight_groups = map(frozen_parameter, prepack(self.weight, self.weight_groups))
        self.is_prepacked = True

    def quantized_weight(self) -> QuantizedWeight:
        """Return the weight in the portable layout."""
        qweight = self.weight.detach()
        groups = None if self.weight_groups is None else self.weight_groups.detach()
        if self.is_prepacked and groups is not None:
            qweight, groups = undo_prepack(qweight, groups, self.out_features)
        return QuantizedWeight(qweight, self.weight_scale.detach(), groups)

    def dequantized_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the dequantized weight [O, I] in `dtype`."""
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
        """Move to another device or dtype like any module, but keep the dtypes of the weight and its scales."""
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
    """Quantize the linear layers of the language model's `layers` in place, one by one to save memory.

    Raises:
        SettingError: `bits` is not 4 or 8, or a linear layer has been replaced by an adapter.
    """
    for layer in layers:
        for name in QUANTIZED_LAYERS:
            linear: Any = layer.get_submodule(name)
            if type(linear) is not nn.Linear:
                raise SettingError(
                    f"{name} is a {type(linear).__name__}: quantize the model before attaching adapters."
                )
            check_bits(bits, linear.in_features)
            parent, _, last = name.rpartition(".")
            quantized = QuantizedLinear.from_quantized(quantize_per_channel(linear.weight, bits), bits, linear.bias)
            setattr(layer.get_submodule(parent), last, quantized)


T = TypeVar("T")
Restore = Callable[[], None]
# One capture at a time: a capture must not reuse memory that belongs to another one.
capture_lock = threading.Lock()


def restore_nothing() -> None:
    """Do nothing, for functions without lasting effects."""


@functools.cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """Return the one stream for all captures of a device: cuBLAS keeps 32 MB for every stream that it was used on."""
    return torch.cuda.Stream(device)


@contextmanager
def exclusive_capture() -> Iterator[None]:
    """Warm up and capture a CUDA graph inside the block, while no other thread does and garbage collection is paused.

    Collecting an unreferenced CUDA graph would destroy it, which would invalidate the capture.
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
    """Capture a function as a CUDA graph on the current device; return the graph and the function's result.

    Args:
        function: is called twice; during the first call, libraries allocate memory and select kernels.
        pool: memory pool of another graph to share; the two graphs must not run at the same time.
        restore: undoes the effects of the first call.

    Raises:
        RuntimeError: `function` contains an operation that cannot be captured, such as a synchronization.
    """
    with exclusive_capture():
        here, side = torch.cuda.current_stream(), capture_stream(torch.cuda.current_device())
        side.wait_stream(here)
        with torch.cuda.stream(side):
            function()
            restore()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # With thread_local, other threads may use the device during the capture.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            result = function()
    return graph, result
