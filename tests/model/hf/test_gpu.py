"""On a GPU: `generate` with our network in each dtype, streaming, beam search, quantized, on several devices."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from model import VisualGLMModel, chat
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.conftest import relative_error
from tests.helpers.hf_models import TINY, build_golden, image_arguments, prompt_ids, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCENE = str(Path(__file__).parents[3] / "examples" / "scene.png")
GREEDY: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1, "min_length": 0}
QUESTIONS = ("图片里有几个物体？", "描述这张图片。", "Describe the image.")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 2e-2)])
def test_logits(dtype: torch.dtype, tolerance: float, golden_pixels: torch.Tensor) -> None:
    """Compare with float32 on the CPU, with the weights rounded to the same dtype."""
    model, image_inputs = build_golden().to(dtype), image_arguments("zh_image", golden_pixels)
    with torch.no_grad():
        expected = model.float()(prompt_ids("zh_image"), **image_inputs).logits
        actual = model.to("cuda", dtype)(prompt_ids("zh_image").cuda(), **image_inputs).logits
    assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_half_on_the_gpu_as_callers_write_it(bits: int) -> None:
    model = HfModel.from_pretrained(TINY).quantize(bits).half().cuda()
    for question in QUESTIONS:
        answer = model.chat(tiny_tokenizer(), SCENE, question, **GREEDY)
        assert [*model.stream_chat(tiny_tokenizer(), SCENE, question, **GREEDY)][-1] == answer
        if bits != 4:
            assert answer == tiny_model().chat(tiny_tokenizer(), SCENE, question, **GREEDY)


def test_both_interfaces_give_the_same_answers_in_half_precision() -> None:
    sat, _ = VisualGLMModel.from_pretrained("visualglm-tiny")
    sat, model = sat.half().cuda(), HfModel.from_pretrained(TINY).half().cuda()
    for question in QUESTIONS:
        expected, _, _ = chat(SCENE, sat, tiny_tokenizer(), question, temperature=0, repetition_penalty=1)
        assert model.chat(tiny_tokenizer(), SCENE, question, **GREEDY)[0] == expected


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"cache_implementation": "static"}])
def test_other_ways_to_generate(settings: dict[str, Any]) -> None:
    model = copy.deepcopy(tiny_model()).cuda()
    expected = tiny_model().chat(
        tiny_tokenizer(), SCENE, QUESTIONS[0], num_beams=settings.get("num_beams", 1), **GREEDY
    )
    assert model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY, **settings) == expected


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_layers_may_be_on_several_devices() -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    first = ("transformer.word_embeddings", "transformer.layers.0", "transformer.layers.1")
    second = ("transformer.layers.2", "transformer.layers.3", "transformer.final_layernorm", "lm_head", "image_encoder")
    places = {**dict.fromkeys(first, 0), **dict.fromkeys(second, 1)}
    model = HfModel.from_pretrained(TINY, dtype=torch.float32, device_map=places)
    answer = model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
    assert answer == tiny_model().chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
