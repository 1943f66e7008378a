"""Quantized weights: published layout, accuracy, saving and loading; only the language model is quantized."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model import SettingError
from model.hf import ChatGLMConfig
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from model.kernels.torch_ops import (
    QUANTIZED_LAYERS,
    QuantizedLinear,
    pack_int4,
    quantize_per_channel,
    quantize_rows,
    unpack_int4,
)
from tests.conftest import relative_error
from tests.helpers.hf_models import (
    SPEC,
    build_golden,
    golden_model,
    image_arguments,
    prompt_ids,
    tiny_model,
    tiny_tokenizer,
)


def test_int4_is_packed_as_published() -> None:
    qweight = torch.tensor([[1, -2, -7, 7], [0, -1, 5, -5]], dtype=torch.int8)
    packed = pack_int4(qweight)
    by_definition = [
        [((row[i] & 15) << 4) | (row[i + 1] & 15) for i in range(0, len(row), 2)] for row in qweight.tolist()
    ]
    assert packed.dtype == torch.int8
    assert (packed.to(torch.int16) & 255).tolist() == by_definition
    assert torch.equal(unpack_int4(packed), qweight)


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_rows_keep_their_largest_weight_and_lose_half_a_step_at_most(bits: int, largest: int) -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 16)[:, None]
    qweight, scale = quantize_rows(weight, bits)
    assert scale.dtype == torch.float16
    assert qweight.abs().amax(1).tolist() == [largest] * 16
    error = (qweight * scale.float()[:, None] - weight).abs()
    assert (error <= scale.float()[:, None] * 0.55).all()


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_rows_without_a_usable_scale_are_zeros_and_no_nan(value: float) -> None:
    linear = nn.Linear(4, 2)
    nn.init.constant_(linear.weight, value)
    quantized = QuantizedLinear.from_quantized(quantize_per_channel(linear.weight, 8), 8, linear.bias)
    assert torch.equal(quantized(torch.ones(1, 4)), linear.bias[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.02), (4, 0.25)])
def test_a_layer_stays_close_and_lets_gradients_through(bits: int, tolerance: float, dtype: torch.dtype) -> None:
    linear = nn.Linear(64, 32).to(dtype)
    x = torch.randn(5, 64, dtype=dtype, requires_grad=True)
    out = QuantizedLinear.from_quantized(quantize_per_channel(linear.weight, bits), bits, linear.bias)(x)
    assert out.dtype == dtype
    assert relative_error(out, linear(x).detach()) < tolerance
    out.sum().backward()
    assert x.grad is not None


def quantized_names(model: HfModel) -> set[str]:
    """Return the names of the quantized layers."""
    return {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.02), (4, 0.4)])
def test_only_the_language_models_layers_are_quantized(
    bits: int, tolerance: float, golden_pixels: torch.Tensor
) -> None:
    model = build_golden()
    assert model.quantize(bits) is model
    layers = range(SPEC["hf_config"]["num_layers"])
    assert quantized_names(model) == {f"transformer.layers.{n}.{name}" for n in layers for name in QUANTIZED_LAYERS}
    assert model.config.quantization_bit == bits
    assert model.dtype == torch.float32
    image_inputs = image_arguments("zh_image", golden_pixels)
    with torch.no_grad():
        expected, actual = (m(prompt_ids("zh_image"), **image_inputs).logits for m in (golden_model(), model))
    assert relative_error(actual, expected) < tolerance


def test_a_second_call_changes_nothing_and_other_bits_are_refused() -> None:
    model = build_golden()
    assert model.quantize(0) is model
    assert not quantized_names(model)
    before = copy.deepcopy(model.quantize(8).state_dict())
    model.quantize(8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(SettingError, match="8 bits"):
        model.quantize(4)
    with pytest.raises(SettingError, match="4 or 8"):
        model.quantize(3)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_model_is_saved_as_published_and_loads(bits: int, tmp_path: Path) -> None:
    model = build_golden().quantize(bits)
    model.save_pretrained(tmp_path)
    loaded, report = HfModel.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    name = "transformer.layers.1.mlp.dense_4h_to_h"
    layer = loaded.get_submodule(name)
    width, inner = SPEC["hf_config"]["hidden_size"], SPEC["hf_config"]["inner_hidden_size"]
    assert layer.weight.dtype == torch.int8
    assert layer.weight.shape == (width, inner * bits // 8)
    assert loaded.state_dict()[f"{name}.weight_scale"].shape == (width,)
    with torch.no_grad():
        expected, actual = (m(prompt_ids("zh_text")).logits for m in (model, loaded))
    assert relative_error(actual, expected) < 1e-6


@pytest.mark.parametrize("change", [HfModel.half, HfModel.float, HfModel.bfloat16])
def test_the_dtype_can_change_afterwards(change: Any) -> None:
    model = build_golden().quantize(8)
    scale = model.get_submodule("transformer.layers.0.attention.dense").weight_scale.clone()
    model = change(model)
    kept = model.get_submodule("transformer.layers.0.attention.dense").weight_scale
    assert kept.dtype == torch.float16
    assert torch.equal(kept, scale)
    assert model.get_submodule("transformer.layers.0.attention.dense").weight.dtype == torch.int8
    with torch.no_grad():
        logits = model(prompt_ids("zh_text")).logits
    assert logits.dtype == model.dtype
    assert torch.isfinite(logits).all()


def test_a_quantized_model_chats() -> None:
    model = copy.deepcopy(tiny_model()).quantize(8)
    settings = {"do_sample": False, "min_length": 0, "repetition_penalty": 1}
    assert model.chat(tiny_tokenizer(), None, "你好", **settings) == tiny_model().chat(
        tiny_tokenizer(), None, "你好", **settings
    )


def test_unsupported_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="quantization_bit"):
        ChatGLMConfig(quantization_bit=5)
    with pytest.raises(SettingError, match="in pairs"):
        QuantizedLinear(3, 2, 4)
