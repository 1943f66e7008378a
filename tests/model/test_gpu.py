"""On a GPU: the CPU's float32 logits, within 1e-5 in float32 and 1e-2 in half precision; chats and explanations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model import ENGLISH, Conversation, chat, load_sat
from model.attribution_graphs import get_scorers
from model.engine import GenerationConfig, Request, generate
from model.explain import explain_answer
from model.images.preprocess import load_image
from model.visualglm import VisualGLMModel
from tests.conftest import build_model, relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCENE = str(Path(__file__).parents[2] / "examples" / "scene.png")
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)


def logits(model: VisualGLMModel, case: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    """Return the logits [T, V] of a golden case's prompt and continuation."""
    ids = torch.tensor([case["input_ids"] + case["continuation"]], device=model.device)
    image_inputs = {"image": pixels[case["image_index"]][None], "pre_image": case["image_start"]}
    with torch.no_grad():
        return model(ids, **image_inputs)[0][0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", ["zh_image", "en_image", "zh_history_image"])
def test_logits(name: str, dtype: torch.dtype, tolerance: float, golden_spec: Any, golden_pixels: torch.Tensor) -> None:
    """Compare with float32 on the CPU, with weights rounded to the dtype."""
    case = golden_spec["cases"][name]
    model = build_model(golden_spec).to(dtype)
    expected = logits(model.float(), case, golden_pixels)
    actual = logits(model.to("cuda", dtype), case, golden_pixels)
    assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cached_decoding(
    dtype: torch.dtype, golden_spec: Any, golden_pixels: torch.Tensor, golden_numbers: Any
) -> None:
    model = build_model(golden_spec).to("cuda", dtype)
    case = golden_spec["cases"]["zh_image"]
    with torch.no_grad():
        images = model.encode_image(golden_pixels[case["image_index"]][None])
    prompt = {"images": images, "image_start": case["image_start"]}
    config = GREEDY.replace(max_new_tokens=24)
    answer = [
        output.token_id for output in generate(model, Request(case["input_ids"], config, **prompt), eos_token_id=130005)
    ]
    if dtype == torch.float32:
        assert answer == golden_numbers["sat/zh_image/greedy"].tolist()
    sampling = GenerationConfig(max_new_tokens=8, temperature=1.5, top_k=0, top_p=1.0, seed=3)
    request = Request(case["input_ids"], sampling, **prompt)
    first, second = (list(generate(model, replace(request), eos_token_id=130005)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_embedded_model_chats(dtype: str) -> None:
    model = load_sat("visualglm-tiny", device="cuda", dtype=dtype)
    answer, history, image = chat(SCENE, model.network, model.tokenizer, "描述这张图片。", temperature=0)
    assert answer.startswith("图片中有一个黑色的圆环、一辆紫色的小汽车和一颗红色的星星。")
    answer, _, _ = chat(None, model.network, model.tokenizer, "小汽车是什么颜色？", history, image, temperature=0)
    assert answer == "小汽车是紫色的。"


@pytest.mark.parametrize("quant", [None, 8, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_graphs_explain_as_the_cpu_does(dtype: str, quant: int | None) -> None:
    model = load_sat("visualglm-tiny", device="cuda", dtype=dtype, quant=quant)
    on_cpu = load_sat("visualglm-tiny", device="cpu", dtype="float32", quant=quant)
    about = Conversation(load_image(SCENE), [], ENGLISH)
    answers = ["Red.", "The star is red.", "The star at the bottom left of the image is red.", "The star is red."]
    for answer in answers:
        found, expected = (explain_answer(one, about, "What colour is the star?", answer) for one in (model, on_cpu))
        assert found.peak == expected.peak
        assert abs(found.map - expected.map).max() < (1e-2 if dtype == "float32" else 0.2)
    scorers = get_scorers(model.engine_network)
    assert scorers.has_graphs
    assert scorers.graphs.graphs
