"""Products of a few rows and layer norm: torch's way everywhere, the kernels on a GPU or in Triton's interpreter.

TRITON_INTERPRET=1 python -m pytest tests/test_kernels.py       where triton is installed, without a GPU
"""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.kernels import choice, dense, int4, int8
from model.kernels.ending import Ending
from model.kernels.tile import MOST_ROWS
from model.quantization.kernels import dequantize
from model.quantization.rounding import round_weight
from tests.conftest import relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = {"dense": dense, "int8": int8, "int4": int4}
BITS = {"int8": 8, "int4": 4}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Of one rounding of the result, and a little for what weights of four bits are rounded to before a product of rows.
ERROR = {torch.float32: 3e-6, torch.float16: 4e-4, torch.bfloat16: 6e-3}
# torch rounds the weight, and after each operation; on a CPU it rounds x to bfloat16 for weights of 8 bits.
TORCH_ERROR = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
INT8_ON_CPU_ERROR = 5e-3
SHAPES = [(37, 64), (8, 32), (96, 512), (5, 160)]
needs_triton = pytest.mark.skipif(
    not choice.has_triton(DEVICE), reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1"
)


@functools.cache
def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw numbers, some of them large, in float32."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (values * (1 + 4 * (values.abs() > 2))).to(DEVICE)


@functools.cache
def make_weight(kind: str, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Return the parts of a weight, and the weight in float64 on the CPU."""
    weight = draw(outputs, inputs) * torch.logspace(-2, 0, outputs, device=DEVICE)[:, None]
    if kind == "dense":
        return (weight.to(dtype),), weight.to(dtype).double().cpu()
    parts = round_weight(weight, BITS[kind])
    return tuple(part for part in parts if part is not None), dequantize(*parts, BITS[kind], torch.float64).cpu()


def make_case(kind: str, shape: tuple[int, int], rows: int, dtype: torch.dtype, *, gelu: bool = True) -> Any:
    """Return x, the weight's parts, an ending with everything, and the exact result."""
    parts, weight = make_weight(kind, *shape, dtype)
    x, residual = draw(rows, shape[1], seed=1).to(dtype), draw(rows, shape[0], seed=2).to(dtype)
    ending = Ending(draw(shape[0], seed=3).to(dtype), gelu, residual, 1.5)
    product = x.double().cpu() @ weight.T + ending.bias.double().cpu()  # type: ignore[union-attr]
    act = F.gelu(product, approximate="tanh") if gelu else product
    return x, parts, ending, (act + 1.5 * residual.double().cpu()).float()


def multiply(kind: str, x: torch.Tensor, parts: tuple[torch.Tensor, ...], ending: Ending, **kwargs: Any) -> Any:
    return KINDS[kind].multiply(
        x, *parts, ending.bias, gelu=ending.gelu, residual=ending.residual, alpha=ending.alpha, **kwargs
    )


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_gives_the_product(kind: str, dtype: torch.dtype, rows: int) -> None:
    x, parts, ending, expected = make_case(kind, (37, 64), rows, dtype)
    y = KINDS[kind].multiply_by_torch(x, *parts, ending)
    assert y.dtype == dtype
    least = INT8_ON_CPU_ERROR if kind == "int8" and DEVICE.type == "cpu" else 0
    assert relative_error(y, expected) < max(least, TORCH_ERROR[dtype])


@needs_triton
@pytest.mark.parametrize("rows", [1, 2, MOST_ROWS])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_give_the_product(kind: str, dtype: torch.dtype, shape: tuple[int, int], rows: int) -> None:
    x, parts, ending, expected = make_case(kind, shape, rows, dtype)
    y = multiply(kind, x, parts, ending)
    assert y.dtype == dtype
    assert relative_error(y, expected) < ERROR[dtype]
