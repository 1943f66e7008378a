"""8-bit and 4-bit weights on the SAT side: accuracy, quantization while loading, saving."""

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
from model.chat_model import SatChatModel
from model.checkpoint.low_bit import save_quantized
from model.engine import GenerationConfig, Request
from model.engine.batch import make_decoder
from model.engine.network import has_foreign_hooks
from model.kernels.torch_ops import positions_2d, prefix_mask
from model.prompt import Prompt
from model.quantization.quantize import QuantizedEmbedding, quantize, quantized_layers
from tests.conftest import build_model, relative_error
from tests.helpers.hf_models import load_tiny, tiny_tokenizer
from tests.model.engine.test_decoder import drain
from tests.tiny.evaluation_data import to_conversation
from tiny.evaluation.generated_dataset import generate_questions

TINY = "visualglm-tiny"
BITS = [8, 4]
WEIGHT_ERROR = {8: 0.01, 4: 0.11}
LOGIT_ERROR = {8: 0.02, 4: 0.2}
AGREEMENT = {8: 0.995, 4: 0.97}
QUESTIONS = 80
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0, max_new_tokens=200)
LANGUAGE_LAYERS = 4 * 4 + 1  # four in each layer of visualglm-tiny, and the head


@pytest.fixture(scope="module")
def tiny() -> SatChatModel:
    """The embedded model, not quantized."""
    return load_sat(TINY, device="cpu")


@pytest.fixture(scope="module", params=BITS)
def few_bits(request: pytest.FixtureRequest) -> SatChatModel:
    """The embedded model, quantized while loading."""
    return load_sat(TINY, device="cpu", quant=request.param)


def bits_of(model: SatChatModel) -> int:
    return model.network.lm_head.bits  # type: ignore[no-any-return]


def forced_logits(model: SatChatModel, prompt: Prompt, answer: list[int], images: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [T, V] of each token of an answer, given the prompt and the tokens before it."""
    ids = torch.tensor([[*prompt.token_ids, *answer[:-1]]])
    start, length = len(prompt.token_ids), ids.shape[1]
    index = torch.arange(length)
    mask = prefix_mask(index, start - 1).float()
    picture = {} if images is None else {"image_embeddings": images, "pre_image": prompt.image_start}
    positions = positions_2d(index, start - 1)[None]
    with torch.no_grad():
        return model.network(ids, position_ids=positions, attention_mask=mask[None, None], **picture)[0][0, start - 1 :]


@pytest.fixture(scope="module")
def forced(tiny: SatChatModel) -> list[tuple[Any, torch.Tensor]]:
    """Questions about drawn scenes with their answers, and the unquantized model's logits for the answers."""
    cases = []
    for question in generate_questions(seed=77, count=QUESTIONS):
        conversation = to_conversation(question)
        prompt = tiny.encode_prompt(conversation, question.text, GREEDY)
        ids = tiny.tokenizer.encode(question.answers[0], add_special_tokens=False)
        case = (prompt, [*ids, tiny.tokenizer.eos_token_id], tiny.image_cache.embed(conversation.image))
        cases.append((case, forced_logits(tiny, *case)))
    return cases


def test_tokens_agree_with_float32(few_bits: SatChatModel, forced: list[tuple[Any, torch.Tensor]]) -> None:
    answers = [(expected, forced_logits(few_bits, *case)) for case, expected in forced]
    agreeing = torch.cat([actual.argmax(-1) == expected.argmax(-1) for expected, actual in answers])
    error = sum(relative_error(actual, expected) for expected, actual in answers) / len(answers)
    print(f"int{bits_of(few_bits)}: {agreeing.float().mean():.4%} of {len(agreeing)} tokens, logits {error:.4f}")
    assert len(agreeing) > 800
    assert agreeing.float().mean() >= AGREEMENT[bits_of(few_bits)]
    assert error < LOGIT_ERROR[bits_of(few_bits)]


@pytest.mark.parametrize("bits", BITS)
def test_the_goldens_model_stays_close(bits: int, golden_spec: dict[str, Any], golden_model: VisualGLMModel) -> None:
    ids = torch.randint(1000, 2000, (1, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"position_ids": positions_2d(torch.arange(24), 22)[None], "attention_mask": torch.ones(1, 1)}
    with torch.no_grad():
        expected = golden_model(ids, **inputs)[0]
        actual = quantize(build_model(golden_spec), bits)(ids, **inputs)[0]
    error = relative_error(actual, expected)
    print(f"int{bits}: logits {error:.4f}")
    assert 0 < error < 2 * LOGIT_ERROR[bits]


def test_only_the_language_model_is_quantized(few_bits: SatChatModel) -> None:
    layers = quantized_layers(few_bits.network)
    assert len(layers) == LANGUAGE_LAYERS
    assert not any(".eva." in name for name in layers)
    assert few_bits.network.dtype == torch.float32
    assert not has_foreign_hooks(few_bits.network)


@pytest.mark.parametrize("bits", BITS)
def test_the_image_encoder_is_quantized_when_asked(bits: int, tiny: SatChatModel) -> None:
    model = load_sat(TINY, device="cpu", quant=bits, quant_vision=True)
    assert len(quantized_layers(model.network)) > 2 * LANGUAGE_LAYERS
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = relative_error(model.network.encode_image(pixels), tiny.network.encode_image(pixels))
    assert 0 < error < 3 * LOGIT_ERROR[bits]


@pytest.mark.parametrize("part", ["quant_vision", "quant_embeddings"])
def test_other_modules_are_not_quantized_alone(part: str) -> None:
    with pytest.raises(SettingError, match=f"{part}.*quant"):
        load_sat(TINY, device="cpu", **{part: True})
    with pytest.raises(SettingError, match=f"{part}.*load_sat"):
        load_hf(TINY, device="cpu", quant=8, **{part: True})


@pytest.mark.parametrize("bits", BITS)
def test_the_embeddings_are_quantized_when_asked(bits: int, tiny: SatChatModel, tmp_path: Path) -> None:
    model = load_sat(TINY, device="cpu", quant=bits, quant_embeddings=True)
    made = model.network.transformer.word_embeddings
    assert isinstance(made, QuantizedEmbedding) and made.weight.dtype == torch.int8
    assert len(quantized_layers(model.network)) == LANGUAGE_LAYERS + 1
    ids = torch.arange(model.network.vocab_size).view(2, -1)
    whole = tiny.network.transformer.word_embeddings(ids).detach()
    assert 0 < relative_error(made(ids), whole) < WEIGHT_ERROR[8]
    assert torch.equal(model.network.embed_tokens(ids[0]), made(ids)[0])
    assert made.to(torch.bfloat16)(ids).dtype == torch.bfloat16 and made.weight_scale.dtype == torch.float32
    made.float()
    save_quantized(model.network, TINY, tmp_path / "saved")
    again = load_sat(tmp_path / "saved", device="cpu", quant=bits, quant_embeddings=True).network
    assert torch.equal(again.transformer.word_embeddings.weight, made.weight)
    alone = load_sat(tmp_path / "saved", device="cpu").network  # as it is saved
    assert torch.equal(alone.transformer.word_embeddings.weight, made.weight)
    plain, _ = VisualGLMModel.from_pretrained(str(tmp_path / "saved"), args=Namespace(device="cpu"))
    assert relative_error(plain.transformer.word_embeddings(ids).detach(), made(ids)) < 1e-3
    asked = [(to_conversation(question), question.text) for question in generate_questions(7, 24)]
    answers = model.answer_batch(asked, GREEDY)
    plainly = load_sat(TINY, device="cpu", quant=bits).answer_batch(asked, GREEDY)
    assert sum(map(str.__eq__, answers, plainly)) >= len(asked) - 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_quantized_afterwards_keep_the_dtype(dtype: torch.dtype) -> None:
    network = quantize(
        copy.deepcopy(load_sat(TINY, device="cpu").network.transformer).to(dtype), 8, quant_embeddings=True
    )
    assert network.word_embeddings(torch.tensor([5])).dtype == dtype


def test_the_decoder_and_the_model_agree(few_bits: SatChatModel) -> None:
    network = few_bits.network
    ids = torch.randint(5, 1000, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoder = make_decoder(network)
        decoder.grow(1, 32)
        drain(decoder.prefill(0, [Request(ids[0, :9].tolist(), GenerationConfig())]))
        steps = torch.cat([decoder.decode(ids[0, [number]], number + 1) for number in (9, 10, 11)])
        index = torch.arange(12)
        mask, positions = prefix_mask(index, 8).float(), positions_2d(index, 8)[None]
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


def test_quantizing_while_loading_and_afterwards_is_the_same(few_bits: SatChatModel, tiny: SatChatModel) -> None:
    later = quantize(copy.deepcopy(tiny.network), bits_of(few_bits)).state_dict()
    loaded = few_bits.network.state_dict()
    assert loaded.keys() == later.keys()
    assert all(torch.equal(tensor, later[name]) for name, tensor in loaded.items())


def test_a_sharded_model_is_refused() -> None:
    layer = ColumnParallelLinear(8, 4, skip_init=True)
    layer.output_size = 8  # as with two processes
    with pytest.raises(SettingError, match="several processes"):
        quantize(nn.ModuleDict({"layer": layer}), 8)


def whole_matrices() -> Iterator[torch.Tensor]:
    """Yield all floating-point matrices in memory that are large enough to be a layer's weight."""
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.is_floating_point() and thing.shape == (1024, 256):
            yield thing


@pytest.fixture
def new_objects_alone() -> Iterator[None]:
    """Let gc.get_objects list only objects made from now on: to inspect all is slow."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("new_objects_alone")
def test_no_unquantized_weight_is_left_in_memory_and_few_at_a_time() -> None:
    matrix, most = torch.zeros(1024, 256), 0
    assert len(list(whole_matrices())) == 1  # it can be seen
    del matrix

    def count(done: int, total: int) -> None:
        nonlocal most
        most = max(most, len(list(whole_matrices())))

    model = load_sat(TINY, device="cpu", quant=8, progress=count)
    gc.collect()
    assert list(whole_matrices()) == []
    assert most <= 2  # of the four layers
    assert len(quantized_layers(model.network)) == LANGUAGE_LAYERS


def test_a_saved_model_has_the_same_weights(few_bits: SatChatModel, tmp_path: Path) -> None:
    save_quantized(few_bits.network, TINY, tmp_path / "saved")
    expected = few_bits.network.state_dict()
    for quant in (None, bits_of(few_bits)):
        again = load_sat(tmp_path / "saved", device="cpu", quant=quant)
        for name, tensor in again.network.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    plain, _ = VisualGLMModel.from_pretrained(str(tmp_path / "saved"), args=Namespace(device="cpu"))
    whole = plain.get_parameter("transformer.layers.1.mlp.dense_h_to_4h.weight")
    layer = few_bits.network.get_submodule("transformer.layers.1.mlp.dense_h_to_4h")
    assert relative_error(whole, layer.dequantized_weight(torch.float32)) < 1e-3


def test_an_unquantized_model_is_not_saved_as_a_quantized_one(tiny: SatChatModel, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="8 bits"):
        save_quantized(tiny.network, TINY, tmp_path / "saved")


@pytest.mark.parametrize("bits", BITS)
def test_weights_in_the_published_layout_are_kept(bits: int, tmp_path: Path) -> None:
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
