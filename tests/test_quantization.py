"""Weights of 8 and 4 bits on the SAT side: close to the whole ones, made while loading, saved, the same everywhere."""

import copy
import gc
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sat.quantization.kernels
import torch
from sat.mpu import ColumnParallelLinear
from torch import nn

from model import SettingError, VisualGLMModel, load_hf, load_sat
from model.chat import SatChatModel
from model.generation import GenerationConfig, Request
from model.generation.cache import answer_positions
from model.generation.decoder import make_decoder
from model.prompt import Prompt
from model.quantization import kernels
from model.quantization.linear import QuantizedLinear
from model.quantization.quantize import quantize, quantized_layers
from model.quantization.rounding import round_weight
from model.quantization.saving import save_quantized
from tests.conftest import build_model, relative_error
from tests.hf_models import load_tiny, tiny_tokenizer
from tests.test_decoder import drain
from tiny.evaluate import GREEDY, to_conversation
from tiny.scoring.drawn import draw_questions

TINY = "visualglm-tiny"
BITS = [8, 4]
WEIGHT_ERROR = {8: 0.01, 4: 0.11}
LOGIT_ERROR = {8: 0.02, 4: 0.2}
AGREEMENT = {8: 0.995, 4: 0.97}
QUESTIONS = 208
LANGUAGE_LAYERS = 4 * 4 + 1  # four in each layer of visualglm-tiny, and the head


def draw(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Draw a weight whose rows have very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 1, rows)[:, None]


def make_layer(bits: int, rows: int = 40, columns: int = 256) -> tuple[torch.Tensor, QuantizedLinear]:
    """Return a weight and its layer, with a bias that counts."""
    weight = draw(rows, columns)
    bias = nn.Parameter(torch.arange(float(rows)))
    return weight, QuantizedLinear.from_weight(weight, bits, bias)


@pytest.fixture(scope="module")
def tiny() -> SatChatModel:
    """The embedded model, whole."""
    return load_sat(TINY, device="cpu")


@pytest.fixture(scope="module", params=BITS)
def few_bits(request: pytest.FixtureRequest) -> SatChatModel:
    """The embedded model, quantised while loading."""
    return load_sat(TINY, device="cpu", quant=request.param)


def bits_of(model: SatChatModel) -> int:
    return model.network.lm_head.bits  # type: ignore[no-any-return]


@pytest.mark.parametrize("columns", [256, 192, 48, 10])
@pytest.mark.parametrize("bits", BITS)
def test_every_row_stays_close(bits: int, columns: int) -> None:
    weight = draw(20, columns)
    rounded = round_weight(weight, bits)
    assert rounded.numbers.shape == (20, columns * bits // 8)
    whole = kernels.dequantize(*rounded, bits, torch.float32)
    errors = (whole - weight).norm(dim=1) / weight.norm(dim=1)
    assert errors.max() < 1.3 * WEIGHT_ERROR[bits]


@pytest.mark.parametrize("bits", BITS)
def test_rounding_twice_changes_nothing(bits: int) -> None:
    once = kernels.dequantize(*round_weight(draw(20, 256), bits), bits, torch.float32)
    again = kernels.dequantize(*round_weight(once, bits), bits, torch.float32)
    assert relative_error(again, once) < (1e-3 if bits == 8 else 0.05)


@pytest.mark.parametrize("value", [0.0, 1e-9, 3.0, -3.0])
@pytest.mark.parametrize("bits", BITS)
def test_equal_weights_are_numbers_and_close(bits: int, value: float) -> None:
    layer = QuantizedLinear.from_weight(torch.full((16, 128), value), bits, None)
    out = layer(torch.ones(2, 128))
    assert torch.allclose(out, torch.full_like(out, 128 * value), rtol=0.02, atol=1e-6)


def test_groups_that_cut_off_extremes_have_the_smaller_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(64, 256)
    chosen = kernels.dequantize(*round_weight(weight, 4), 4, torch.float32)
    monkeypatch.setattr("model.quantization.rounding.SHARES", (1.0,))
    whole_range = kernels.dequantize(*round_weight(weight, 4), 4, torch.float32)
    errors = [(made - weight).view(64, 2, 128).square().sum(-1) for made in (chosen, whole_range)]
    assert (errors[0] <= errors[1]).all()
    assert errors[0].sum() < 0.97 * errors[1].sum()


def test_a_matrix_is_rounded_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(20, 256)
    expected = round_weight(weight, 4)
    monkeypatch.setattr("model.quantization.rounding.AT_ONCE", 3 * 256)
    for part, whole in zip(round_weight(weight, 4), expected, strict=True):
        assert torch.equal(part, whole)


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", BITS)
def test_every_kernel_gives_the_product_with_the_whole_weight(bits: int, dtype: torch.dtype, rows: int) -> None:
    _, layer = make_layer(bits)
    layer = layer.to(dtype)
    x = torch.randn(2, rows, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = x.float() @ layer.whole_weight(torch.float32).t()
    out = layer(x)
    assert out.dtype == dtype
    assert out.shape == (2, rows, 40)
    difference = (out.float() - layer.bias.float() - expected).norm(dim=(0, 1))
    allowed = 0.01 * expected.norm(dim=(0, 1)) + 0.01 * layer.bias.float().abs() * rows**0.5
    assert (difference <= allowed + 1e-4).all()


@pytest.mark.parametrize("columns", [2, 4, 10, 24, 48, 192])
@pytest.mark.parametrize("bits", BITS)
def test_rows_of_any_even_length_are_multiplied(bits: int, columns: int) -> None:
    layer = QuantizedLinear.from_weight(draw(3, columns), bits, None)
    x = torch.ones(1, columns)
    expected = layer.whole_weight(torch.float32).sum(1)
    allowed = 0.01 * layer.whole_weight(torch.float32).norm(dim=1) * columns**0.5
    assert ((layer(x)[0] - expected).abs() <= allowed).all()


@pytest.mark.parametrize("bits", BITS)
def test_gradients_reach_what_is_before_and_the_bias(bits: int) -> None:
    _, layer = make_layer(bits)
    x = torch.randn(3, 256, requires_grad=True)
    layer(x).sum().backward()
    expected = layer.whole_weight(torch.float32).sum(0).expand(3, -1)
    assert relative_error(x.grad, expected) < 1e-5
    assert layer.bias.grad.tolist() == [3.0] * 40


@pytest.mark.parametrize("shape", [(40, 256), (16, 32), (1500, 192)])
def test_what_the_cpu_kernel_wants_is_taken_back(shape: tuple[int, int]) -> None:
    rounded = round_weight(draw(*shape), 4)
    assert rounded.groups is not None
    assert kernels.can_lay_out(shape[1], rounded.groups)
    numbers, groups = kernels.take_back(*kernels.lay_out(rounded.numbers, rounded.groups), shape[0])
    assert torch.equal(numbers, rounded.numbers)
    assert torch.equal(groups, rounded.groups)


@pytest.mark.parametrize("bits", BITS)
def test_a_state_dict_is_the_same_before_and_after_use(bits: int) -> None:
    weight, layer = make_layer(bits)
    rounded = round_weight(weight, bits)
    state = layer.state_dict()
    assert torch.equal(state["weight"], rounded.numbers)
    assert torch.equal(state["weight_scale"], rounded.scale)
    other = QuantizedLinear(256, 40, bits, nn.Parameter(torch.zeros(40)))
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
def test_bits_that_cannot_be_are_refused(bits: int, columns: int, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        round_weight(torch.ones(2, columns), bits)
    with pytest.raises(SettingError, match=words):
        QuantizedLinear(columns, 2, bits, None)


def forced_logits(model: SatChatModel, prompt: Prompt, answer: list[int], images: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [T, V] of each token of an answer, given the prompt and the tokens before it."""
    ids = torch.tensor([[*prompt.token_ids, *answer[:-1]]])
    start, length = len(prompt.token_ids), ids.shape[1]
    mask = torch.ones(length, length).tril()
    mask[:, : start - 1] = 1
    picture = {} if images is None else {"image_embeddings": images, "pre_image": prompt.image_start}
    positions = answer_positions(start, length, ids.device)[None]
    with torch.no_grad():
        return model.network(ids, position_ids=positions, attention_mask=mask[None, None], **picture)[0][0, start - 1 :]


@pytest.fixture(scope="module")
def forced(tiny: SatChatModel) -> list[tuple[Any, torch.Tensor]]:
    """Drawn questions with their right answers, and the whole model's logits of those."""
    cases = []
    for question in draw_questions(seed=77, count=QUESTIONS):
        conversation = to_conversation(question)
        prompt = tiny.encode_prompt(conversation, question.text, GREEDY)
        ids = tiny.tokenizer.encode(question.expected[0], add_special_tokens=False)
        case = (prompt, [*ids, tiny.tokenizer.eos_token_id], tiny.pictures.embed(conversation.image))
        cases.append((case, forced_logits(tiny, *case)))
    return cases


def test_tokens_agree_with_float32(few_bits: SatChatModel, forced: list[tuple[Any, torch.Tensor]]) -> None:
    answers = [(expected, forced_logits(few_bits, *case)) for case, expected in forced]
    agreeing = torch.cat([actual.argmax(-1) == expected.argmax(-1) for expected, actual in answers])
    error = sum(relative_error(actual, expected) for expected, actual in answers) / len(answers)
    print(f"int{bits_of(few_bits)}: {agreeing.float().mean():.4%} of {len(agreeing)} tokens, logits {error:.4f}")
    assert len(agreeing) > 2000
    assert agreeing.float().mean() >= AGREEMENT[bits_of(few_bits)]
    assert error < LOGIT_ERROR[bits_of(few_bits)]


@pytest.mark.parametrize("bits", BITS)
def test_the_goldens_model_stays_close(bits: int, golden_spec: dict[str, Any], golden_model: VisualGLMModel) -> None:
    ids = torch.randint(1000, 2000, (1, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"position_ids": answer_positions(23, 24, ids.device)[None], "attention_mask": torch.ones(1, 1)}
    with torch.no_grad():
        expected = golden_model(ids, **inputs)[0]
        actual = quantize(build_model(golden_spec), bits)(ids, **inputs)[0]
    error = relative_error(actual, expected)
    print(f"int{bits}: logits {error:.4f}")
    assert 0 < error < 2 * LOGIT_ERROR[bits]


def test_only_the_language_model_is_quantised(few_bits: SatChatModel) -> None:
    layers = quantized_layers(few_bits.network)
    assert len(layers) == LANGUAGE_LAYERS
    assert not any(".eva." in name for name in layers)
    assert few_bits.network.dtype == torch.float32
    assert not few_bits.network.has_foreign_hooks


@pytest.mark.parametrize("bits", BITS)
def test_the_image_part_is_quantised_when_asked(bits: int, tiny: SatChatModel) -> None:
    model = load_sat(TINY, device="cpu", quant=bits, quant_vision=True)
    assert len(quantized_layers(model.network)) > 2 * LANGUAGE_LAYERS
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = relative_error(model.network.encode_image(pixels), tiny.network.encode_image(pixels))
    assert 0 < error < 3 * LOGIT_ERROR[bits]


def test_the_image_part_alone_is_not_quantised() -> None:
    with pytest.raises(SettingError, match="needs quant"):
        load_sat(TINY, device="cpu", quant_vision=True)
    with pytest.raises(SettingError, match="load_sat"):
        load_hf(TINY, device="cpu", quant=8, quant_vision=True)


def test_the_decoder_and_the_whole_model_agree(few_bits: SatChatModel) -> None:
    network = few_bits.network
    ids = torch.randint(5, 1000, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoder = make_decoder(network)
        decoder.grow(1, 32)
        drain(decoder.prefill(0, [Request(ids[0, :9].tolist(), GenerationConfig())]))
        steps = torch.cat([decoder.decode(ids[0, [number]], number + 1) for number in (9, 10, 11)])
        mask = torch.ones(12, 12).tril()
        mask[:, :8] = 1
        positions = answer_positions(9, 12, ids.device)[None]
        expected = network(ids, position_ids=positions, attention_mask=mask[None, None])[0][0, 9:]
    assert relative_error(steps, expected) < 0.01


@pytest.mark.parametrize("part", ["model", "transformer"])
@pytest.mark.parametrize("bits", BITS)
def test_the_originals_line_works(bits: int, part: str) -> None:
    assert sat.quantization.kernels.quantize is quantize
    network, _ = VisualGLMModel.from_pretrained(TINY, args=Namespace(device="cpu"))
    given = network if part == "model" else network.transformer
    assert sat.quantization.kernels.quantize(given, bits) is given
    assert len(quantized_layers(network)) == LANGUAGE_LAYERS - (part == "transformer")
    before = copy.deepcopy(network.state_dict())
    quantize(network.transformer, bits)  # a second time changes nothing
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_quantising_while_loading_and_afterwards_is_the_same(few_bits: SatChatModel, tiny: SatChatModel) -> None:
    later = quantize(copy.deepcopy(tiny.network), bits_of(few_bits)).state_dict()
    loaded = few_bits.network.state_dict()
    assert loaded.keys() == later.keys()
    assert all(torch.equal(tensor, later[name]) for name, tensor in loaded.items())


def test_a_share_of_a_model_is_refused() -> None:
    layer = ColumnParallelLinear(8, 4, skip_init=True)
    layer.output_size = 8  # as in each of two processes
    with pytest.raises(SettingError, match="several processes"):
        quantize(nn.ModuleDict({"layer": layer}), 8)


def whole_matrices() -> Iterator[torch.Tensor]:
    """Yield the floating matrices in memory that are large enough to be a layer's weight."""
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.is_floating_point() and thing.shape == (1024, 256):
            yield thing


def test_no_whole_weight_is_left_in_memory_and_few_at_a_time() -> None:
    gc.collect()
    before, most = len(list(whole_matrices())), 0

    def count(done: int, total: int) -> None:
        nonlocal most
        most = max(most, len(list(whole_matrices())) - before)

    model = load_sat(TINY, device="cpu", quant=8, progress=count)
    gc.collect()
    assert len(list(whole_matrices())) <= before
    assert most <= 2  # of four layers
    assert len(quantized_layers(model.network)) == LANGUAGE_LAYERS


def test_a_saved_model_has_the_same_numbers(few_bits: SatChatModel, tmp_path: Path) -> None:
    save_quantized(few_bits.network, TINY, tmp_path / "saved")
    again = load_sat(tmp_path / "saved", device="cpu", quant=bits_of(few_bits))
    expected = few_bits.network.state_dict()
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    whole = load_sat(tmp_path / "saved", device="cpu").network.get_parameter(
        "transformer.layers.1.mlp.dense_h_to_4h.weight"
    )
    layer = few_bits.network.get_submodule("transformer.layers.1.mlp.dense_h_to_4h")
    assert relative_error(whole, layer.whole_weight(torch.float32)) < 1e-3


def test_a_whole_model_is_not_saved_as_a_quantised_one(tiny: SatChatModel, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="all 8 bits, or all 4"):
        save_quantized(tiny.network, TINY, tmp_path / "saved")


@pytest.mark.parametrize("bits", BITS)
def test_numbers_of_the_published_layout_are_kept(bits: int, tmp_path: Path) -> None:
    published = load_tiny().quantize(bits)
    published.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_sat(tmp_path, device="cpu", quant=bits).network
    for number in range(4):
        for name in ("attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
            path = f"transformer.layers.{number}.{name}"
            expected = published.get_submodule(path)
            assert torch.equal(loaded.state_dict()[f"{path}.weight"], expected.weight)
            assert torch.equal(loaded.state_dict()[f"{path}.weight_scale"], expected.weight_scale.float())
        path = f"transformer.layers.{number}.attention.query_key_value"
        rows = published.get_submodule(path).weight
        kept = loaded.state_dict()[f"{path}.weight"]
        assert torch.equal(kept, rows.view(8, 3, -1, rows.shape[1]).transpose(0, 1).reshape(rows.shape))


@pytest.mark.parametrize("bits", BITS)
def test_a_large_weight_is_made_whole_in_parts(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((20, 96), (50, 96), (50,)))
    rounded = round_weight(weight, bits)
    x = x.to(torch.float64).requires_grad_()  # which no kernel takes
    whole = kernels.quantized_linear(x, *rounded, bias, bits)
    monkeypatch.setattr(kernels, "WHOLE_AT_ONCE", 96 * 7)
    assert torch.allclose(kernels.quantized_linear(x, *rounded, bias, bits), whole)
    expected = x @ kernels.dequantize(*rounded, bits, torch.float64).t() + bias
    assert torch.allclose(whole, expected)
