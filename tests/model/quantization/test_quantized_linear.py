"""Quantized weights and layers: accuracy for all shapes, exact storage, equal products of all kernels."""

import pytest
import torch
from torch import nn

from model import SettingError
from model.kernels import torch_ops as kernels
from model.kernels.torch_ops import QuantizedLinear
from model.quantization.quantize import allocate_linear, quantize_weight
from tests.conftest import relative_error

BITS = [8, 4]
WEIGHT_ERROR = {8: 0.01, 4: 0.11}


def draw(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Draw a weight whose rows differ much in magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 1, rows)[:, None]


def make_layer(bits: int, rows: int = 40, columns: int = 256) -> tuple[torch.Tensor, QuantizedLinear]:
    """Return a weight and its quantized layer, with a nonzero bias."""
    weight = draw(rows, columns)
    bias = nn.Parameter(torch.arange(float(rows)))
    return weight, QuantizedLinear.from_quantized(quantize_weight(weight, bits), bits, bias)


@pytest.mark.parametrize("columns", [256, 192, 48, 10])
@pytest.mark.parametrize("bits", BITS)
def test_every_row_stays_close(bits: int, columns: int) -> None:
    weight = draw(20, columns)
    rounded = quantize_weight(weight, bits)
    assert rounded.qweight.shape == (20, columns * bits // 8)
    whole = kernels.dequantize(*rounded, bits, torch.float32)
    errors = (whole - weight).norm(dim=1) / weight.norm(dim=1)
    assert errors.max() < 1.3 * WEIGHT_ERROR[bits]


@pytest.mark.parametrize("bits", BITS)
def test_quantizing_twice_changes_nothing(bits: int) -> None:
    once = kernels.dequantize(*quantize_weight(draw(20, 256), bits), bits, torch.float32)
    again = kernels.dequantize(*quantize_weight(once, bits), bits, torch.float32)
    assert relative_error(again, once) < (1e-3 if bits == 8 else 0.05)


@pytest.mark.parametrize("value", [0.0, 1e-9, 3.0, -3.0])
@pytest.mark.parametrize("bits", BITS)
def test_equal_weights_are_finite_and_close(bits: int, value: float) -> None:
    layer = QuantizedLinear.from_quantized(quantize_weight(torch.full((16, 128), value), bits), bits)
    out = layer(torch.ones(2, 128))
    assert torch.allclose(out, torch.full_like(out, 128 * value), rtol=0.02, atol=1e-6)


def test_clipped_groups_have_the_smaller_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(64, 256)
    chosen = kernels.dequantize(*quantize_weight(weight, 4), 4, torch.float32)
    monkeypatch.setattr("model.quantization.quantize.CLIP_RATIOS", (1.0,))
    whole_range = kernels.dequantize(*quantize_weight(weight, 4), 4, torch.float32)
    errors = [(made - weight).view(64, 2, 128).square().sum(-1) for made in (chosen, whole_range)]
    assert (errors[0] <= errors[1]).all()
    assert errors[0].sum() < 0.97 * errors[1].sum()


def test_a_matrix_is_quantized_in_chunks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(20, 256)
    expected = [*quantize_weight(weight, 4), *kernels.quantize_rows(weight, 8)]
    monkeypatch.setattr(kernels, "CPU_BLOCK_ELEMENTS", 3 * 256)
    for part, whole in zip([*quantize_weight(weight, 4), *kernels.quantize_rows(weight, 8)], expected, strict=True):
        assert torch.equal(part, whole)


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", BITS)
def test_every_kernel_gives_the_product_with_the_dequantized_weight(bits: int, dtype: torch.dtype, rows: int) -> None:
    _, layer = make_layer(bits)
    layer = layer.to(dtype)
    x = torch.randn(2, rows, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = x.float() @ layer.dequantized_weight(torch.float32).t()
    out = layer(x)
    assert out.dtype == dtype
    assert out.shape == (2, rows, 40)
    difference = (out.float() - layer.bias.float() - expected).norm(dim=(0, 1))
    allowed = 0.01 * expected.norm(dim=(0, 1)) + 0.01 * layer.bias.float().abs() * rows**0.5
    assert (difference <= allowed + 1e-4).all()


@pytest.mark.parametrize("columns", [2, 4, 10, 24, 48, 192])
@pytest.mark.parametrize("bits", BITS)
def test_rows_of_any_even_length_are_multiplied(bits: int, columns: int) -> None:
    layer = QuantizedLinear.from_quantized(quantize_weight(draw(3, columns), bits), bits)
    x = torch.ones(1, columns)
    expected = layer.dequantized_weight(torch.float32).sum(1)
    allowed = 0.01 * layer.dequantized_weight(torch.float32).norm(dim=1) * columns**0.5
    assert ((layer(x)[0] - expected).abs() <= allowed).all()


@pytest.mark.parametrize("bits", BITS)
def test_gradients_reach_what_is_before_and_the_bias(bits: int) -> None:
    _, layer = make_layer(bits)
    x = torch.randn(3, 256, requires_grad=True)
    layer(x).sum().backward()
    expected = layer.dequantized_weight(torch.float32).sum(0).expand(3, -1)
    assert relative_error(x.grad, expected) < 1e-5
    assert layer.bias.grad.tolist() == [3.0] * 40


@pytest.mark.parametrize("shape", [(40, 256), (16, 32), (1500, 192)])
def test_prepacking_is_undone(shape: tuple[int, int]) -> None:
    rounded = quantize_weight(draw(*shape), 4)
    assert rounded.groups is not None
    assert kernels.can_prepack(shape[1], rounded.groups)
    qweight, groups = kernels.undo_prepack(*kernels.prepack(rounded.qweight, rounded.groups), shape[0])
    assert torch.equal(qweight, rounded.qweight)
    assert torch.equal(groups, rounded.groups)


def test_a_large_weight_is_prepacked_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = quantize_weight(torch.randn(600, 128, generator=torch.Generator().manual_seed(0)), 4)
    assert rounded.groups is not None
    whole, groups = kernels.prepack(rounded.qweight, rounded.groups)
    parts: list[int] = []
    inner = kernels.prepack_rows
    monkeypatch.setattr(kernels, "prepack_rows", lambda pairs: parts.append(len(pairs)) or inner(pairs))
    monkeypatch.setattr(kernels, "CPU_BLOCK_ELEMENTS", 128)
    laid, same_groups = kernels.prepack(rounded.qweight, rounded.groups)
    assert parts == [256, 256, 96]
    assert torch.equal(laid, whole)
    assert torch.equal(same_groups, groups)


@pytest.mark.parametrize("bits", BITS)
def test_a_state_dict_is_the_same_before_and_after_use(bits: int) -> None:
    weight, layer = make_layer(bits)
    rounded = quantize_weight(weight, bits)
    state = layer.state_dict()
    assert torch.equal(state["weight"], rounded.qweight)
    assert torch.equal(state["weight_scale"], rounded.scale)
    other = allocate_linear(256, 40, bits, nn.Parameter(torch.zeros(40)))
    other.load_state_dict(state)
    x = torch.randn(2, 256)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("bits", BITS)
def test_scales_keep_their_precision_when_the_model_is_cast(bits: int) -> None:
    _, layer = make_layer(bits)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.half().bfloat16().float()
    after = layer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name != "bias")
    assert layer.half().bias.dtype == torch.float16


@pytest.mark.parametrize(("bits", "columns", "words"), [(3, 8, "8 or 4 bits"), (4, 7, "pairs")])
def test_unsupported_bits_are_refused(bits: int, columns: int, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        quantize_weight(torch.ones(2, columns), bits)
    with pytest.raises(SettingError, match=words):
        allocate_linear(columns, 2, bits, None)


@pytest.mark.parametrize("bits", BITS)
def test_a_large_weight_is_dequantized_in_chunks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((20, 96), (50, 96), (50,)))
    rounded = quantize_weight(weight, bits)
    x = x.to(torch.float64).requires_grad_()  # not supported by any kernel
    whole = kernels.quantized_linear(x, *rounded, bias, bits)
    monkeypatch.setattr(kernels, "DEQUANTIZE_ELEMENTS", 96 * 7)
    assert torch.allclose(kernels.quantized_linear(x, *rounded, bias, bits), whole)
    expected = x @ kernels.dequantize(*rounded, bits, torch.float64).t() + bias
    assert torch.allclose(whole, expected)
