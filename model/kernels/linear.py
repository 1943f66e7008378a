"""Linear layers with 16-bit, 8-bit or 4-bit weights, and bias, activation and residual fused into one call."""

import functools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .autotune import QUANT_BITS, max_rows
from .dispatch import has_triton, is_interpreted, supports_pdl, supports_triton_kernel
from .epilogue import Epilogue, Gelu, apply_epilogue
from .torch_ops import needs_gradient, quantized_linear

# Maximum rows for the transposed product of `PretransposedLinear`, and the number of blocks of its weight.
MAX_TRANSPOSED_ROWS, NUM_BLOCKS = 4, 8
# Elements of a weight that are dequantized at once: 128 MiB in float16, the largest matrix of a published layer.
MAX_DEQUANTIZED_ELEMENTS = 2**26


def multiply_dense(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: Gelu | None = None,
    residual: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O] in the dtype of x.

    Args:
        x: [B, I] in float32, float16 or bfloat16.
        weight: [O, I] in the dtype of x.
        bias: [O].
        gelu: which GELU act is; None for the identity.
        residual: [B, O]; may be `out`.
        alpha: factor of the residual.
        out: [B, O] in the dtype of x, to be filled and returned.
    """
    return _multiply("dense", x, (weight,), Epilogue(bias, gelu, residual, alpha), out, weight.dtype == x.dtype)


def _multiply(
    kind: str,
    x: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor | None,
    has_kernel: bool,
) -> torch.Tensor:
    """Multiply by the Triton kernel of a kind of weight if there is one for this weight and device, else by torch.

    Many rows are multiplied by torch, with a weight that a Triton kernel dequantizes.
    """
    if kind != "dense" and has_kernel and needs_gradient(x) and has_triton(x.device):
        return apply_epilogue(LowBitProduct.apply(x, kind, epilogue.bias, *weight), epilogue, out)
    if not has_kernel or not supports_triton_kernel(x, *weight, epilogue.bias, epilogue.residual):
        return multiply_by_torch(kind, x, weight, epilogue, out)
    has_pdl = is_interpreted() or supports_pdl(x.device)  # the interpreter runs every kernel
    if len(x) <= max_rows(kind, x.element_size(), has_pdl):
        from .triton.launch import multiply as launch

        return launch(kind, x, weight, epilogue, out)
    if kind == "dense":
        return multiply_by_torch(kind, x, weight, epilogue, out)
    return multiply_dequantized(kind, x, weight, epilogue, out)


def multiply_dequantized(
    kind: str,
    x: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute `multiply_int8` or `multiply_int4` by torch with a weight that is dequantized tile by tile.

    Args:
        kind: "int8" or "int4".
        weight: the weight's tensors, in the order of the parameters of these functions.
    """
    product = x.new_empty(0)
    for tile, dequantized in dequantize_tiles(kind, weight, x):
        if len(dequantized) == len(weight[0]):
            return multiply_by_torch("dense", x, (dequantized,), epilogue, out)
        product = product if len(product) else x.new_empty(len(x), len(weight[0]))
        product[:, tile] = F.linear(x, dequantized, None if epilogue.bias is None else epilogue.bias[tile])
    return apply_epilogue(product, epilogue, out)


def dequantize_tiles(
    kind: str, weight: tuple[torch.Tensor, ...], x: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the rows of each tile of a weight, and the tile dequantized; it is valid until the next one.

    Args:
        kind, weight: see `multiply_dequantized`.
        x: a tensor [.., I] of the dtype and device of the tiles.
    """
    from .triton.launch import dequantize

    outputs, inputs = len(weight[0]), x.shape[-1]
    workspace = x.new_empty(min(outputs, max(1, MAX_DEQUANTIZED_ELEMENTS // inputs)), inputs)
    for start in range(0, outputs, len(workspace)):
        tile = slice(start, start + len(workspace))
        parts = tuple(tensor[tile] for tensor in weight)
        yield tile, dequantize(kind, parts, inputs, workspace[: len(parts[0])])


class LowBitProduct(torch.autograd.Function):
    """A product with a weight of 8 or 4 bits by Triton's kernels, with the gradients of x and the bias.

    The backward pass dequantizes the weight again: kept from the forward pass, all weights would take as much memory as
    a model that is not quantized.
    """

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, kind: str, bias: torch.Tensor | None, *weight: torch.Tensor
    ) -> torch.Tensor:
        context.kind, context.inputs = kind, x.shape[1]
        context.save_for_backward(*weight)
        return _multiply(kind, x, weight, Epilogue(bias), None, True)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [gradient], weight = gradients, context.saved_tensors
        x_gradient = gradient.new_zeros(len(gradient), context.inputs)
        for tile, dequantized in dequantize_tiles(context.kind, weight, x_gradient):
            x_gradient.addmm_(gradient[:, tile], dequantized)
        bias_gradient = gradient.sum(0) if context.needs_input_grad[2] else None
        return x_gradient, None, bias_gradient, *[None] * len(weight)


def multiply_by_torch(
    kind: str,
    x: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    epilogue: Epilogue,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute `multiply_dense`, `multiply_int8` or `multiply_int4` with torch alone.

    Args:
        kind: "dense", "int8" or "int4".
        weight: the weight's tensors, in the order of the parameters of these functions.
    """
    if kind == "dense" and epilogue.gelu == "tanh" and can_fuse_gelu(x, weight[0], epilogue.bias):
        product, epilogue = multiply_gelu(x, weight[0], epilogue.bias), epilogue._replace(gelu=None)
    elif kind == "dense":
        product = F.linear(x, weight[0], epilogue.bias)
    else:
        qweight, scale, *groups = weight
        product = quantized_linear(x, qweight, scale, groups[0] if groups else None, epilogue.bias, QUANT_BITS[kind])
    return apply_epilogue(product, epilogue, out)


def can_fuse_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Return whether a product, a bias and the GELU can be one call of torch: on a GPU and without gradients."""
    return x.is_cuda and x.dim() == 2 and bias is not None and not any(map(needs_gradient, (x, weight, bias)))


def multiply_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the tanh-GELU of x @ weight.T + bias, which cuBLAS computes before it rounds the sums."""
    product: torch.Tensor = torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True)
    return product


@functools.cache
def has_slow_small_matmul() -> bool:
    """Return whether torch's products with few rows are slow on this CPU: Intel's MKL on an AMD processor."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkl.is_available() and "AMD" in capabilities.get("cpu_name", "")


class PretransposedLinear:
    """A CPU linear layer with a pre-transposed weight: x [N, I] -> x @ weight.T + bias [N, O].

    Where torch is slow for few rows in float32, these are computed as weight @ x.T, in blocks of the weight. With
    weights in main memory, that halves the time for one row: `python -m benchmarks.cpu_matmul`.

    Args:
        weight: [O, I].
        bias: [O].

    Attributes:
        few: maximum rows that are computed as weight @ x.T; 0 for none.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight.t(), bias
        is_slow = weight.device.type == "cpu" and weight.dtype == torch.float32 and has_slow_small_matmul()
        self.few = MAX_TRANSPOSED_ROWS if is_slow else 0
        count = math.gcd(len(weight), NUM_BLOCKS)
        self.weight_blocks = weight.unflatten(0, (count, -1))
        self.bias_blocks = (weight.new_zeros(len(weight)) if bias is None else bias).view(count, -1, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.few:
            return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
        x_blocks = x.t().expand(len(self.weight_blocks), -1, -1)
        product = torch.baddbmm(self.bias_blocks, self.weight_blocks, x_blocks)
        return product.view(1, -1) if len(x) == 1 else product.flatten(0, 1).t().contiguous()


# Supported group sizes, in columns. A thread reads 32 weights at once, and the kernel for several rows reads one group
# per iteration.
GROUP_SIZES = (32, 64, 128)


def multiply_int4(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    groups: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: Gelu | None = None,
    residual: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O] in the dtype of x.

    Args:
        x: [B, I] in float32, float16 or bfloat16.
        packed: packed 4-bit weight, int8 [O, I / 2].
        scale: float32 [O].
        groups: group scales and zero points, bfloat16 [O, G, 2].
        bias: [O].
        gelu: which GELU act is; None for the identity.
        residual: [B, O]; may be `out`.
        alpha: factor of the residual.
        out: [B, O] in the dtype of x, to be filled and returned.
    """
    has_kernel = x.shape[1] / groups.shape[1] in GROUP_SIZES
    return _multiply("int4", x, (packed, scale, groups), Epilogue(bias, gelu, residual, alpha), out, has_kernel)


# The kernel reads 8-bit weights as int32 words, so the columns must be a multiple of this.
INT8_PER_WORD = 4


def multiply_int8(
    x: torch.Tensor,
    qweight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: Gelu | None = None,
    residual: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return act(x @ weight.T + bias) + alpha * residual, [B, O] in the dtype of x.

    Args:
        x: [B, I] in float32, float16 or bfloat16.
        qweight: quantized weight, int8 [O, I].
        scale: float32 [O].
        bias: [O].
        gelu: which GELU act is; None for the identity.
        residual: [B, O]; may be `out`.
        alpha: factor of the residual.
        out: [B, O] in the dtype of x, to be filled and returned.
    """
    has_kernel = qweight.shape[1] % INT8_PER_WORD == 0
    return _multiply("int8", x, (qweight, scale), Epilogue(bias, gelu, residual, alpha), out, has_kernel)


class Linear(Protocol):
    """act(x @ W.T + bias) + alpha * residual for x [N, I]; act is a GELU or the identity."""

    def __call__(
        self, x: torch.Tensor, *, gelu: Gelu | None = None, residual: torch.Tensor | None = None, alpha: float = 1.0
    ) -> torch.Tensor: ...


class LinearAdapter:
    """Adds an epilogue to a function that maps [N, I] to [N, O].

    The function includes the bias and returns a new tensor, which the epilogue modifies in place.
    """

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(
        self, x: torch.Tensor, *, gelu: Gelu | None = None, residual: torch.Tensor | None = None, alpha: float = 1.0
    ) -> torch.Tensor:
        return apply_epilogue(self.function(x), Epilogue(None, gelu, residual, alpha), None)


def bind_dense(module: nn.Module) -> Linear:
    """Return a function that computes a linear layer with an unquantized weight [O, I] and an optional bias."""
    parameters: Any = {"weight": module.weight, "bias": module.bias}
    if has_triton(parameters["weight"].device):
        return partial(multiply_dense, **parameters)
    return LinearAdapter(PretransposedLinear(**parameters))


def bind_low_bit(
    qweight: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor | None, bias: torch.Tensor | None
) -> Linear:
    """Return a function that computes a linear layer with a quantized weight: 4 bits with groups, 8 bits without."""
    if groups is None:
        return partial(multiply_int8, qweight=qweight, scale=scale, bias=bias)
    return partial(multiply_int4, packed=qweight, scale=scale, groups=groups, bias=bias)
