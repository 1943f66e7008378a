"""Products with few rows, and layer norm: torch everywhere, the kernels on a GPU or in Triton's interpreter.

TRITON_INTERPRET=1 python -m pytest tests/model/kernels/test_kernels.py       without a GPU; needs triton
"""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.kernels import linear, norm
from model.kernels.autotune import (
    MATMUL_CONFIGS,
    MATVEC_CONFIGS,
    MAX_FLOAT32_ROWS,
    MAX_ROWS,
    ROW_BUCKETS,
    TARGET_PROGRAMS,
    VECTOR_WIDTH,
    KernelConfig,
    default_config,
    max_rows,
    select_config,
)
from model.kernels.dispatch import has_triton
from model.kernels.epilogue import Epilogue, Gelu
from model.kernels.torch_ops import dequantize
from model.quantization.quantize import quantize_weight
from tests.conftest import relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = {"dense": linear.multiply_dense, "int8": linear.multiply_int8, "int4": linear.multiply_int4}
BITS = {"int8": 8, "int4": 4}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Relative error of rounding the result once; the 4-bit kernel for several rows also rounds the dequantized weight.
ERROR = {torch.float32: 5e-6, torch.float16: 5e-4, torch.bfloat16: 6e-3}
INT4_ERROR = 2e-5
# Torch rounds the dequantized weight and after each operation; its 8-bit CPU kernel also rounds x to bfloat16.
TORCH_ERROR = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
INT8_ON_CPU_ERROR = 5e-3
SHAPES = [(37, 64), (8, 32), (96, 512), (5, 160)]
FULL_SIZE = [(12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384), (130528, 4096)]
INTERPRETED = DEVICE.type == "cpu"
needs_triton = pytest.mark.skipif(
    not has_triton(DEVICE), reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1"
)


@functools.cache
def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random float32 numbers, some of them large."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (values * (1 + 4 * (values.abs() > 2))).to(DEVICE)


@functools.cache
def make_weight(kind: str, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Return the tensors of a weight, and the dequantized weight in float64 on the CPU."""
    weight = draw(outputs, inputs) * torch.logspace(-2, 0, outputs, device=DEVICE)[:, None]
    if kind == "dense":
        return (weight.to(dtype),), weight.to(dtype).double().cpu()
    quantized = quantize_weight(weight, BITS[kind])
    dequantized = dequantize(*quantized, BITS[kind], torch.float64).cpu()
    return tuple(tensor for tensor in quantized if tensor is not None), dequantized


def make_case(kind: str, shape: tuple[int, int], rows: int, dtype: torch.dtype, *, gelu: Gelu | None = "tanh") -> Any:
    """Return x, the weight's tensors, an epilogue with all its parts, and the exact result."""
    weight_tensors, weight = make_weight(kind, *shape, dtype)
    x, residual = draw(rows, shape[1], seed=1).to(dtype), draw(rows, shape[0], seed=2).to(dtype)
    epilogue = Epilogue(draw(shape[0], seed=3).to(dtype), gelu, residual, 1.5)
    product = x.double().cpu() @ weight.T + epilogue.bias.double().cpu()  # type: ignore[union-attr]
    act = product if gelu is None else F.gelu(product, approximate="tanh" if gelu == "tanh" else "none")
    return x, weight_tensors, epilogue, (act + 1.5 * residual.double().cpu()).float()


def multiply(
    kind: str, x: torch.Tensor, weight_tensors: tuple[torch.Tensor, ...], epilogue: Epilogue, **kwargs: Any
) -> Any:
    return KINDS[kind](
        x,
        *weight_tensors,
        epilogue.bias,
        gelu=epilogue.gelu,
        residual=epilogue.residual,
        alpha=epilogue.alpha,
        **kwargs,
    )


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_computes_the_product(kind: str, dtype: torch.dtype, rows: int) -> None:
    x, weight_tensors, epilogue, expected = make_case(kind, (37, 64), rows, dtype)
    y = linear.multiply_by_torch(kind, x, weight_tensors, epilogue)
    assert y.dtype == dtype
    least = INT8_ON_CPU_ERROR if kind == "int8" and DEVICE.type == "cpu" else 0
    assert relative_error(y, expected) < max(least, TORCH_ERROR[dtype])


@needs_triton
@pytest.mark.parametrize("rows", [1, 2, 17, 129])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_compute_the_product(kind: str, dtype: torch.dtype, shape: tuple[int, int], rows: int) -> None:
    skip_unless_interpretable(dtype, rows)
    x, weight_tensors, epilogue, expected = make_case(kind, shape, rows, dtype)
    y = multiply(kind, x, weight_tensors, epilogue)
    assert y.dtype == dtype
    assert relative_error(y, expected) < max(ERROR[dtype], INT4_ERROR if kind == "int4" else 0)


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_approximate_and_the_exact_gelu_differ(kind: str, gelu: Gelu, rows: int) -> None:
    weight_tensors, _ = make_weight(kind, 37, 64, torch.float32)
    x = draw(rows, 64, seed=1) / 10
    product = KINDS[kind](x, *weight_tensors).double()
    y = KINDS[kind](x, *weight_tensors, gelu=gelu).double()
    errors = {
        "tanh": (y - F.gelu(product, approximate="tanh")).abs().max(),
        "exact": (y - F.gelu(product)).abs().max(),
    }
    assert errors.pop(gelu) < min(errors.values()) / 2


@pytest.mark.parametrize("gelu", [None, "exact"])
@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_other_activations_than_the_tanh_gelu_are_computed(kind: str, rows: int, gelu: Gelu | None) -> None:
    x, weight_tensors, epilogue, expected = make_case(kind, (37, 64), rows, torch.float16, gelu=gelu)
    least = INT8_ON_CPU_ERROR if kind == "int8" and DEVICE.type == "cpu" else 0
    assert relative_error(multiply(kind, x, weight_tensors, epilogue), expected) < max(
        least, TORCH_ERROR[torch.float16]
    )


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="takes hours in Triton's interpreter")
@pytest.mark.parametrize("shape", [(37, 224), (300, 1024)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_compute_the_product_of_every_number_of_rows(
    kind: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    x, weight_tensors, epilogue, expected = make_case(kind, shape, 300, dtype)
    for rows in range(1, 301):
        residual = epilogue.residual[:rows]
        y = multiply(kind, x[:rows], weight_tensors, epilogue._replace(residual=residual))
        assert relative_error(y, expected[:rows]) < TORCH_ERROR[dtype], rows


@needs_triton
@pytest.mark.parametrize("config", [KernelConfig(1, 512, 4, 1), KernelConfig(4, 64, 1, 2), KernelConfig(8, 256, 8, 3)])
@pytest.mark.parametrize("shape", [(37, 224), (3, 1024)])
@pytest.mark.parametrize("kind", KINDS)
def test_matvec_with_any_config(kind: str, shape: tuple[int, int], config: KernelConfig) -> None:
    check_config(kind, shape, 1, config)


@needs_triton
@pytest.mark.parametrize(
    "config",
    [
        KernelConfig(16, 64, 4, 1, 3),
        KernelConfig(32, 32, 2, 2, 2, 32),
        KernelConfig(64, 128, 4, 4, 5, 16, True),
        KernelConfig(64, 64, 4, 3, 1, 64, True),
    ],
)
@pytest.mark.parametrize("shape", [(37, 224), (3, 1024)])
@pytest.mark.parametrize("kind", KINDS)
def test_matmul_with_any_config_and_split_k(kind: str, shape: tuple[int, int], config: KernelConfig) -> None:
    for rows in (5, 70):
        check_config(kind, shape, rows, config)


def check_config(kind: str, shape: tuple[int, int], rows: int, config: KernelConfig) -> None:
    """Assert that a product is right with a configuration that does not divide the shape."""
    from model.kernels.triton import launch

    x, weight_tensors, epilogue, expected = make_case(kind, shape, rows, torch.float16)
    y = launch.multiply(kind, x, weight_tensors, epilogue, None, config)
    assert relative_error(y, expected) < ERROR[torch.float16]


def skip_unless_interpretable(dtype: torch.dtype, rows: int) -> None:
    if INTERPRETED and dtype == torch.bfloat16 and rows > 1:
        pytest.skip("Triton's interpreter takes the bits of bfloat16 for integers in tl.dot")


@needs_triton
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    x, weight_tensors, epilogue, _ = make_case(kind, (37, 512), 16, torch.float16)
    every = multiply(kind, x, weight_tensors, epilogue)
    for rows in (2, 5, 15):
        some = multiply(kind, x[:rows], weight_tensors, epilogue._replace(residual=epilogue.residual[:rows]))
        assert torch.equal(some, every[:rows])


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_out_is_filled_and_may_be_the_residual(kind: str, rows: int) -> None:
    x, weight_tensors, epilogue, _ = make_case(kind, (37, 64), rows, torch.float16)
    expected = multiply(kind, x, weight_tensors, epilogue)
    for out in (torch.full_like(expected, torch.nan), torch.full_like(expected, torch.nan).t().contiguous().t()):
        assert multiply(kind, x, weight_tensors, epilogue, out=out) is out
        assert torch.equal(out, expected)
    out = epilogue.residual.clone()
    assert torch.equal(multiply(kind, x, weight_tensors, epilogue._replace(residual=out), out=out), expected)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_may_have_any_strides(kind: str) -> None:
    x, weight_tensors, epilogue, _ = make_case(kind, (37, 64), 3, torch.float16)
    expected = multiply(kind, x, weight_tensors, epilogue)
    strided = torch.stack((x, x + 1), dim=-1)[..., 0]
    assert torch.equal(
        multiply(kind, strided, weight_tensors, epilogue._replace(residual=epilogue.residual.t().clone().t())), expected
    )


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_epilogue_the_result_is_the_product(kind: str) -> None:
    x, weight_tensors, _, _ = make_case(kind, (37, 64), 3, torch.float16)
    dequantized = make_weight(kind, 37, 64, torch.float16)[1]
    y = KINDS[kind](x, *weight_tensors)
    assert relative_error(y, (x.double().cpu() @ dequantized.T).float()) < TORCH_ERROR[torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [1, 6, 24, 1500])
@pytest.mark.parametrize("rows", [1, 2, linear.MAX_TRANSPOSED_ROWS, linear.MAX_TRANSPOSED_ROWS + 1])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_slow", [True, False])
def test_pretransposed_linear_computes_the_product(
    is_slow: bool, has_bias: bool, rows: int, outputs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "has_slow_small_matmul", lambda: is_slow)
    x, weight = torch.randn(40, rows).t().to(dtype), torch.randn(outputs, 40).to(dtype)  # x is not contiguous
    bias = torch.randn(outputs).to(dtype) if has_bias else None
    product = linear.PretransposedLinear(weight, bias)(x)
    assert product.is_contiguous()
    assert relative_error(product, F.linear(x, weight, bias)) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_of_an_unquantized_weight_use_torch(kind: str, dtype: torch.dtype) -> None:
    rows = MAX_ROWS[kind] + 1 if dtype != torch.float32 else MAX_FLOAT32_ROWS + 1
    x, weight_tensors, epilogue, expected = make_case(kind, (37, 64), rows, dtype)
    y = multiply(kind, x, weight_tensors, epilogue)
    by_torch = linear.multiply_by_torch(kind, x, weight_tensors, epilogue)
    assert torch.equal(y, by_torch) if kind == "dense" else relative_error(y, expected) < TORCH_ERROR[dtype]


def test_without_pdl_torch_multiplies_more_rows_of_an_unquantized_weight() -> None:
    assert [max_rows(kind, 2, False) for kind in KINDS] == [16 if kind == "dense" else 256 for kind in KINDS]
    assert [max_rows(kind, 2, True) for kind in KINDS] == [MAX_ROWS[kind] for kind in KINDS]
    assert {max_rows(kind, 4, has_pdl) for kind in KINDS for has_pdl in (False, True)} == {MAX_FLOAT32_ROWS}


@needs_triton
@pytest.mark.parametrize("limit", [64, 10 * 64, 37 * 64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BITS)
def test_weights_are_dequantized_in_tiles(
    kind: str, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MAX_DEQUANTIZED_ELEMENTS", limit)
    x, weight_tensors, epilogue, expected = make_case(kind, (37, 64), 3, dtype)
    y = linear.multiply_dequantized(kind, x, weight_tensors, epilogue)
    assert relative_error(y, expected) < TORCH_ERROR[dtype]


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "residual"])
def test_gradients_flow(wanted: str) -> None:
    x, (weight,), epilogue, _ = make_case("dense", (37, 64), 2, torch.float32)
    tensors = {"x": x, "weight": weight, "bias": epilogue.bias, "residual": epilogue.residual}
    leaf = tensors[wanted] = tensors[wanted].clone().requires_grad_()
    linear.multiply_dense(**tensors, gelu="tanh").sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("limit", [10 * 64, 37 * 64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("rows", [2, 200])
def test_the_gradient_of_x_flows_through_low_bit_weights(
    kind: str, dtype: torch.dtype, rows: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_triton(DEVICE):
        skip_unless_interpretable(dtype, rows)
    monkeypatch.setattr(linear, "MAX_DEQUANTIZED_ELEMENTS", limit)
    x, weight_tensors, epilogue, expected = make_case(kind, (37, 64), rows, dtype, gelu=None)
    leaf = x.clone().requires_grad_()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = multiply(kind, leaf, weight_tensors, epilogue)
    if has_triton(DEVICE):  # the dequantized weight is not kept
        assert not any(tensor.is_floating_point() and tensor.numel() == 37 * 64 for tensor in saved)
    assert relative_error(y.detach(), expected) < TORCH_ERROR[dtype]
    given = draw(rows, 37, seed=4).to(dtype)
    y.backward(given)
    assert leaf.grad is not None
    expected_gradient = given.double().cpu() @ make_weight(kind, 37, 64, dtype)[1]
    assert relative_error(leaf.grad, expected_gradient.float()) < TORCH_ERROR[dtype]


@pytest.mark.parametrize("kind", BITS)
def test_the_gradient_of_the_bias_flows_beside_that_of_x(kind: str) -> None:
    x, weight_tensors, epilogue, _ = make_case(kind, (37, 64), 3, torch.float32, gelu=None)
    leaf = epilogue.bias.clone().requires_grad_()
    given = draw(3, 37, seed=4)
    multiply(kind, x.clone().requires_grad_(), weight_tensors, epilogue._replace(bias=leaf)).backward(given)
    assert leaf.grad is not None
    assert relative_error(leaf.grad, given.sum(0)) < ERROR[torch.float32]


@needs_triton
@pytest.mark.parametrize(("kind", "inputs"), [("dense", 5), ("dense", 24), ("int8", 4), ("int8", 12)])
@pytest.mark.parametrize("rows", [1, 2])
def test_weights_narrower_than_a_block(kind: str, inputs: int, rows: int) -> None:
    x, weight_tensors, epilogue, expected = make_case(kind, (5, inputs), rows, torch.float16)
    assert relative_error(multiply(kind, x, weight_tensors, epilogue), expected) < 2 * ERROR[torch.float16]


def test_groups_narrower_than_a_vector_load_use_torch() -> None:
    x, weight_tensors, epilogue, expected = make_case("int4", (37, 24), 1, torch.float16)
    assert relative_error(multiply("int4", x, weight_tensors, epilogue), expected) < TORCH_ERROR[torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (5, 200), (norm.MAX_NORM_ROWS + 1, 32)])
def test_layer_norm(rows: int, columns: int, dtype: torch.dtype) -> None:
    x, weight, bias = (draw(*shape).to(dtype) for shape in ((rows, columns), (columns,), (1, columns)))
    bias, x = bias[0], x + 3  # a mean that is not zero
    expected = F.layer_norm(x.double(), (columns,), weight.double(), bias.double(), 1e-5)
    y = norm.layer_norm(x, weight, bias, 1e-5)
    assert y.dtype == dtype
    assert relative_error(y, expected.float().cpu()) < ERROR[dtype]
    out = torch.full_like(y, torch.nan)
    assert norm.layer_norm(x, weight, bias, 1e-5, out) is out
    assert torch.equal(out, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (5, 200), (70, 32)])
def test_layer_norm_of_a_sum(rows: int, columns: int, dtype: torch.dtype) -> None:
    x, y, weight, bias = (
        draw(*shape).to(dtype) for shape in ((rows, columns), (rows, columns), (columns,), (columns,))
    )
    total, normalized = norm.add_layer_norm(x, y, weight, bias, 1e-5)
    assert torch.equal(total, x + y)
    expected = F.layer_norm(total.double(), (columns,), weight.double(), bias.double(), 1e-5)
    assert relative_error(normalized, expected.float().cpu()) < ERROR[dtype]


@pytest.mark.parametrize("rows", [1, 2, *ROW_BUCKETS])
@pytest.mark.parametrize(("outputs", "inputs"), [*FULL_SIZE, *SHAPES])
@pytest.mark.parametrize("kind", KINDS)
def test_configs_are_powers_of_two_and_fill_the_gpu(kind: str, outputs: int, inputs: int, rows: int) -> None:
    for config in (default_config(kind, outputs, inputs, rows), select_config(kind, outputs, inputs, rows)):
        assert all(size & (size - 1) == 0 for size in (config.block_o, config.block_i, config.num_warps))
        assert config.block_i >= VECTOR_WIDTH[kind]
        assert inputs < 4096 or outputs / config.block_o * config.split_k > TARGET_PROGRAMS / 3


@pytest.mark.parametrize("table", [MATVEC_CONFIGS, MATMUL_CONFIGS])
def test_the_tables_have_known_kinds(table: dict[tuple[str, int, int], KernelConfig]) -> None:
    assert {key[0] for key in table} <= set(KINDS)
    assert all(config.split_k == 1 for config in MATVEC_CONFIGS.values())


def test_triton_is_imported_only_when_it_is_needed() -> None:
    names = ", ".join(f"model.kernels.{name}" for name in ("linear", "torch_ops", "norm", "dispatch", "autotune"))
    program = f"import sys, torch, {names}; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("shape", FULL_SIZE)
@pytest.mark.parametrize("kind", KINDS)
def test_full_size(kind: str, shape: tuple[int, int], rows: int) -> None:
    """The kernels agree with float32 and the dequantized weight, also in a captured graph."""
    generator = torch.Generator("cuda").manual_seed(0)
    weight, x = (torch.randn(n, shape[1], generator=generator, device=DEVICE).half() for n in (shape[0], rows))
    weight_tensors = (
        (weight,) if kind == "dense" else tuple(p for p in quantize_weight(weight, BITS[kind]) if p is not None)
    )
    dequantized = (
        weight.float()
        if kind == "dense"
        else dequantize(*weight_tensors, *[None] * (3 - len(weight_tensors)), BITS[kind], torch.float32)
    )
    expected = x.float() @ dequantized.t()
    y = KINDS[kind](x, *weight_tensors)
    assert relative_error(y, expected.cpu()) < ERROR[torch.float16]
    graph, out = torch.cuda.CUDAGraph(), torch.empty_like(y)
    with torch.cuda.graph(graph):
        KINDS[kind](x, *weight_tensors, out=out)
    x.copy_(x.flip(1))
    graph.replay()
    assert torch.equal(out, KINDS[kind](x, *weight_tensors))
