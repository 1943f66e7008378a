"""LoRA, QLoRA and P-tuning change nothing before training, and change the answers after it."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from sat.mpu import ColumnParallelLinear
from torch import nn

from model import DEMO, Conversation, FineTuneVisualGLMModel, SatChatModel, VisualGLMModel, load_sat, load_tokenizer
from model.images.preprocess import load_image
from model.prompt import clean_answer
from model.quantization import nf4
from model.quantization.nf4 import DequantizedMatmul, Nf4Linear
from model.sat.lora import LoraLinear
from tests.helpers.sat_programs import SCENE, close, logits_of, sat_directory, tiny_tokenizer  # noqa: F401

GREEDY = DEMO.replace(temperature=0.0, max_new_tokens=12)


def load(name: str = "visualglm-tiny", **settings: Any) -> FineTuneVisualGLMModel:
    """Load visualglm-tiny with the adapters that `settings` select."""
    network, _ = FineTuneVisualGLMModel.from_pretrained(name, Namespace(device="cpu", **settings))
    return network


def move(network: nn.Module, size: float = 0.1) -> None:
    """Change the adapter weights from their initial values."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "matrix_" in name or "ptuning" in name:
            parameter.data.add_(size * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def plain() -> VisualGLMModel:
    """visualglm-tiny, shared: tests must not change it."""
    return load_sat("visualglm-tiny", device="cpu").network


TARGETS = (["llm"], ["mlp"], ["head"], ["qformer", "vit"], ["llm", "mlp", "head", "qformer", "vit"])


@pytest.mark.parametrize("targets", TARGETS, ids=" ".join)
def test_untrained_lora_changes_nothing_and_trained_lora_merges(targets: list[str], plain: VisualGLMModel) -> None:
    network = load(use_lora=True, lora_targets=targets, layer_range=[0, 3])
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tokenizer = load_tokenizer("visualglm-tiny")

    @torch.no_grad()
    def see(model: VisualGLMModel) -> torch.Tensor:
        return torch.cat((model.encode_image(pixels).flatten(), logits_of(model, tokenizer).flatten()))

    assert torch.equal(see(network), see(plain))
    move(network)
    changed = see(network)
    assert not close(changed, see(plain))
    network.get_mixin("lora").merge_lora()
    assert not any(isinstance(module, LoraLinear) for module in network.modules())
    assert close(see(network), changed)


def test_layer_range_lists_layers() -> None:
    network = load(use_lora=True, layer_range=[0, 2])
    adapted = [isinstance(layer.attention.dense, LoraLinear) for layer in network.transformer.layers]
    assert adapted == [True, False, True, False]


def test_parameter_names_are_those_of_sat(base: str, tmp_path: Path) -> None:
    from sat.model.finetune.lora2 import LoraMixin

    theirs, args = VisualGLMModel.from_pretrained(base, Namespace(device="cpu"))
    theirs.add_mixin("lora", LoraMixin(args.num_layers, 4, layer_range=[1]), reinit=True)
    ours = load(use_lora=True, lora_rank=4, layer_range=[1])
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_only_adapters_are_trained() -> None:
    for settings in ({"use_lora": True}, {"use_qlora": True}, {"use_ptuning": True}):
        network = load(**settings)
        network.disable_untrainable_params()
        trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        assert trained
        assert all("matrix_" in name or name.startswith("mixins.ptuning.prefix.") for name in trained)


@pytest.mark.parametrize("shape", [(6, 128), (7, 64), (5, 33), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nf4_quantization(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    rounded = nf4.fake_quantize(weight)
    assert rounded.dtype == dtype
    assert torch.equal(nf4.fake_quantize(rounded), rounded)
    # Adjacent NF4 levels differ by at most 0.31 of a block's largest weight.
    assert (rounded - weight).abs().max() <= 0.16 * weight.abs().max()
    assert torch.equal(nf4.fake_quantize(torch.zeros(shape)), torch.zeros(shape))


def test_nf4_equals_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = torch.randn(24, 128, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    assert torch.equal(functional.dequantize_4bit(packed, state), nf4.fake_quantize(weight))


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_4_bit_layer_computes_with_the_dequantized_weight(with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 128, generator=generator)
    bias = nn.Parameter(torch.randn(24, generator=generator), requires_grad=False) if with_bias else None
    layer = Nf4Linear(weight, bias)
    x = torch.randn(2, 5, 128, generator=generator, requires_grad=True)
    expected = nn.functional.linear(x, nf4.fake_quantize(weight), bias)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    by_torch = DequantizedMatmul.apply(x, layer.packed, layer.scales, layer.shape, bias)
    for result in (layer(x), by_torch, layer.dequantized()(x)):
        assert torch.allclose(result, expected, atol=1e-4)
        assert torch.allclose(torch.autograd.grad(result.square().sum(), x)[0], wanted, atol=1e-3)
    assert not layer.state_dict().keys() - {"bias"}


def test_qlora_quantizes_the_language_model_and_merges(plain: VisualGLMModel) -> None:
    network = load(use_qlora=True)
    linear = [module for module in network.transformer.modules() if isinstance(module, ColumnParallelLinear)]
    assert not linear
    weight = plain.transformer.layers[1].mlp.dense_4h_to_h.weight
    layer = network.transformer.layers[1].mlp.dense_4h_to_h
    assert torch.allclose(layer.dequantized().weight, nf4.fake_quantize(weight), atol=1e-6)
    move(network)
    tokenizer = load_tokenizer("visualglm-tiny")
    before = logits_of(network, tokenizer)
    network.get_mixin("lora").merge_lora()
    assert close(logits_of(network, tokenizer), before)


@pytest.fixture(scope="module")
def prefixed() -> FineTuneVisualGLMModel:
    """visualglm-tiny with a prefix that changes its answers, shared: tests must not change it."""
    network = load(use_ptuning=True, pre_seq_len=6)
    move(network, 3.0)
    return network


def greedy_by_sat(network: VisualGLMModel, chat: SatChatModel, conversation: Conversation, question: str) -> list[int]:
    """Decode greedily with SAT's full forward pass over prompt and answer for each token."""
    prompt = chat.encode_prompt(conversation, question, GREEDY)
    ids, context = list(prompt.token_ids), len(prompt.token_ids) - 1
    answer: list[int] = []
    while len(answer) < 12 and (not answer or answer[-1] != chat.tokenizer.eos_token_id):
        count = len(ids)
        index = torch.arange(count)
        mask = ((index < context) | (index <= index[:, None])).float()[None, None]
        positions = torch.stack((index.clamp(max=context - 1), (index - context + 1).clamp(min=0)))[None]
        images = chat.image_cache.embed(conversation.image)
        with torch.no_grad():
            logits = network(
                torch.tensor([ids]),
                position_ids=positions,
                attention_mask=mask,
                image_embeddings=images,
                pre_image=prompt.image_start or 0,
            )[0]
        answer.append(int(logits[0, -1].argmax()))
        ids.append(answer[-1])
    return answer


def test_p_tuning_answers_through_the_engine(prefixed: FineTuneVisualGLMModel, plain: VisualGLMModel) -> None:
    tokenizer = load_tokenizer("visualglm-tiny")
    chat = SatChatModel(prefixed, tokenizer)
    image = load_image(SCENE)
    asked = [
        (Conversation(image), "描述这张图片。"),
        (Conversation(image), "图片里有几个物体？"),
        (Conversation(), "你好"),
    ]
    config = GREEDY.replace(repetition_penalty=1.0)
    expected = []
    for conversation, question in asked:
        ids = greedy_by_sat(prefixed, chat, conversation, question)
        expected.append(clean_answer(tokenizer.decode([token for token in ids if token != tokenizer.eos_token_id])))
    streamed = ["".join(chunk.text for chunk in chat.stream_answer(*one, config)) for one in asked]
    assert streamed == expected
    assert chat.answer_batch(asked, config) == expected
    unchanged = SatChatModel(plain, tokenizer).answer_batch(asked, config)
    assert all(answer != before for answer, before in zip(expected, unchanged, strict=True))


def test_the_originals_fine_tune_loads_as_our_class(tmp_path: Path) -> None:
    from model.checkpoint import open_checkpoint
    from model.sat.compat import class_to_load
    from tests.helpers.checkpoints import write_sat

    network = load(use_lora=True, lora_rank=4, layer_range=[0, 3])
    move(network)
    tuned = {"model_class": "FineTuneVisualGLMModel", "use_lora": True, "lora_rank": 4, "layer_range": [0, 3]}
    config = {**open_checkpoint("visualglm-tiny").config, **tuned, "use_ptuning": False, "pre_seq_len": 4}
    run = write_sat(tmp_path / "run", network.state_dict(), config, 300)
    assert class_to_load(run).__name__ == "FineTuneVisualGLMModel"  # a user's program may define it
    tokenizer = load_tokenizer("visualglm-tiny")
    loaded, args = FineTuneVisualGLMModel.from_pretrained(str(run), Namespace(device="cpu"))
    assert args.lora_alpha == 1
    assert torch.equal(logits_of(loaded, tokenizer), logits_of(network, tokenizer))
