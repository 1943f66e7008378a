"""Programs for the original's SAT side run unchanged on visualglm-tiny."""

import argparse
import importlib.util
import shutil
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from sat.generation.autoregressive_sampling import filling_sequence
from sat.generation.sampling_strategies import BaseStrategy
from sat.model import AutoModel
from sat.model.mixins import CachedAutoregressiveMixin
from sat.model.official import ViTModel
from sat.mpu.layers import ColumnParallelLinear, RowParallelLinear
from sat.training.model_io import save_checkpoint

from model import VisualGLMModel, chat
from model.blip2 import BlipImageEvalProcessor
from model.images.preprocess import load_image
from tests.helpers.preloaded import run_preloaded
from tests.helpers.sat_programs import ANSWER, ON_CPU, QUESTION, ROOT, SCENE, ask, sat_directory, tiny_tokenizer  # noqa: F401

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@pytest.mark.filterwarnings("ignore:There is no GPU here")
def test_the_terminal_program(base: str, tokenizer: Any) -> None:
    has_gpu = torch.cuda.is_available()
    model, _ = AutoModel.from_pretrained(
        base,
        args=argparse.Namespace(
            fp16=True, skip_init=True, use_gpu_initialization=has_gpu, device="cuda" if has_gpu else "cpu"
        ),
    )
    model = model.eval()
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    assert type(model) is VisualGLMModel
    history, cache_image = None, None
    with torch.no_grad():
        response, history, cache_image = chat(
            SCENE,
            model,
            tokenizer,
            QUESTION,
            history=history,
            image=cache_image,
            max_length=2048,
            top_p=0.4,
            temperature=0,
            top_k=100,
            english=False,
            invalid_slices=[],
        )
        assert response == ANSWER
        english, history, _ = chat(
            None, model, tokenizer, "How many objects are there?", history, cache_image, 2048, 0.4, 1, 0.8, 1.0,
            [slice(63823, 130000)], True,
        )  # fmt: skip
    assert [question for question, _ in history] == [QUESTION, "How many objects are there?"]
    assert english.isascii()


def test_auto_model_takes_names_defaults_and_either_format() -> None:
    model, args = AutoModel.from_pretrained("visualglm-tiny", overwrite_args={"model_parallel_size": 1})
    assert type(model) is VisualGLMModel
    assert args.image_length == model.image_length


def run(code: str) -> tuple[list[str], str]:
    """Run code in a new interpreter; return the lines of its output, and its standard error."""
    done = run_preloaded(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@without_gpu
def test_a_missing_gpu_is_reported_once() -> None:
    printed, complaints = run("""
from argparse import Namespace
from model import VisualGLMModel
for device in ("cuda", "cuda:0", 0, "cpu"):
    wish = Namespace(fp16=True, skip_init=True, use_gpu_initialization=True, device=device)
    model, args = VisualGLMModel.from_pretrained("visualglm-tiny", args=wish)
    print(model.dtype, model.device, args.fp16, args.device)
""")
    assert printed == ["torch.float32 cpu False cpu"] * 4
    assert complaints.count("There is no GPU here: the model is built on the CPU, in float32.") == 1
    assert "<string>:6: UserWarning" in complaints  # the line of the program


def test_supported_cpu_settings_are_respected(base: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
        brief, args = VisualGLMModel.from_pretrained(base, args=Namespace(bf16=True, **ON_CPU))
    assert plain.dtype == torch.float32
    assert (brief.dtype, args.bf16) == (torch.bfloat16, True)


def test_an_image_prepared_by_hand_is_the_image(base: str, tokenizer: Any) -> None:
    model, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
    pixels = BlipImageEvalProcessor(224)(load_image(SCENE))
    assert pixels.shape == (3, 224, 224)
    answer, _, returned = chat("", model, tokenizer, QUESTION, image=pixels[None], temperature=0)
    assert answer == ANSWER
    assert torch.equal(returned, chat(SCENE, model, tokenizer, QUESTION, temperature=0)[2])


def test_helpers_have_the_original_s_import_paths() -> None:
    code = """
from model import is_chinese, get_infer_setting, generate_input, process_image, chat, BlipImageEvalProcessor
from model.infer_util import is_chinese as there, get_infer_setting, generate_input, process_image
from model.blip2 import BlipImageEvalProcessor
from model.chat import chat
from model.visualglm import VisualGLMModel
print(is_chinese("图片"), there("picture"), isinstance(chat, type(is_chinese)))
"""
    assert run(code)[0] == ["True False True"]


def test_components_have_the_original_s_attribute_paths(base: str) -> None:
    model, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
    for layer in model.transformer.layers:
        assert type(layer.attention.query_key_value) is ColumnParallelLinear
        assert type(layer.attention.dense) is RowParallelLinear
    image = model.get_mixin("eva").model
    assert image.vit.get_mixin("cls").ln_vision.weight.ndim == 1
    assert image.glm_proj.weight.shape[0] == model.transformer.hidden_size
    assert image.qformer.transformer.word_embeddings.weight.shape[0] == model.image_length


def test_sats_own_sampling_loop(base: str, tokenizer: Any) -> None:
    model, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    inputs = tokenizer(["问：你好\n答："], return_tensors="pt")["input_ids"][0]
    seq = torch.cat((inputs, torch.full((12,), -1)))

    def get_masks_and_position_ids(seq: torch.Tensor) -> Any:
        tokens = seq.unsqueeze(0)
        return tokens, *model.get_inputs(tokens)

    strategy = BaseStrategy(temperature=1.0, top_k=1, end_tokens=[tokenizer.eos_token_id])
    with torch.no_grad():
        output, *_ = filling_sequence(
            model, seq, batch_size=1, strategy=strategy, get_masks_and_position_ids=get_masks_and_position_ids
        )
    ids = [number for number in output[0].tolist()[len(inputs) :] if number not in (-1, tokenizer.eos_token_id)]
    expected = chat(None, model, tokenizer, "你好", temperature=0, repetition_penalty=1.0)[0]
    assert ids
    assert expected.startswith(tokenizer.decode(ids).strip().replace("!", "！"))


@pytest.mark.parametrize("loader", [AutoModel, VisualGLMModel])
def test_models_are_found_in_the_given_home(loader: Any, base: str, tmp_path: Path, tokenizer: Any) -> None:
    shutil.copytree(base, tmp_path / "visualglm-mine")
    model, _ = loader.from_pretrained("visualglm-mine", args=Namespace(**ON_CPU), home_path=str(tmp_path), url="local")
    assert ask(model, tokenizer) == ANSWER


def test_other_models_of_sat_load_as_they_did(tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 1, "max_sequence_length": 5}
    shape = {"image_size": [4, 4], "patch_size": 2, "in_channels": 3, "num_classes": 2, "pre_len": 1, "post_len": 0}
    args = ViTModel.get_args(**sizes, **shape, layernorm_order="pre")
    model = ViTModel(args).eval()
    args.save, args.mode = str(tmp_path / "vit"), "inference"
    save_checkpoint(1, model, None, None, args)
    loaded, _ = AutoModel.from_pretrained(args.save, args=None)
    assert type(loaded) is ViTModel
    expected = model.state_dict()
    assert all(torch.equal(tensor.cpu(), expected[name]) for name, tensor in loaded.state_dict().items())


# SAT imports optional packages, some undeclared: triton for its rotary kernel, requests, and wandb with deepspeed.
SAT_FIRST = """
import sys, types
rotary, requests = "sat.model.position_embedding.triton_rotary_embeddings", "requests"
for name in (rotary, requests):
    sys.modules[name] = types.ModuleType(name)
sys.modules[rotary].FastRotaryEmbedding = object
sys.modules["deepspeed"] = None  # with deepspeed, SAT imports much more
"""


def test_sat_may_be_imported_before_the_model() -> None:
    printed, _ = run(
        SAT_FIRST
        + """
from sat.model import AutoModel
assert "model" not in sys.modules
from model import VisualGLMModel
model, args = AutoModel.from_pretrained("visualglm-tiny")
print(type(model) is VisualGLMModel, args.image_length)
"""
    )
    assert printed[-1] == "True 32"


def test_functions_of_sat_that_were_imported_before_the_model_are_ours() -> None:
    printed, _ = run(
        SAT_FIRST
        + """
from sat.quantization.kernels import quantize
from sat.resources import auto_create
assert "model" not in sys.modules
from model import CheckpointError, VisualGLMModel, chat, load_tokenizer
model, args = VisualGLMModel.from_pretrained("visualglm-tiny")
print(quantize(model.transformer, 8) is model.transformer)
print(type(quantize(model.transformer, weight_bit_width=8).layers[0].attention.dense).__name__)
try:
    auto_create("no-such-model", url="https://127.0.0.1/no-such-model.zip")
except CheckpointError:
    print("not downloaded")
print(chat("examples/scene.png", model, load_tokenizer("visualglm-tiny"), "图片里有几个物体？", temperature=0)[0])
"""
    )
    assert printed[-4:] == ["True", "QuantizedLinear", "not downloaded", ANSWER]


@pytest.mark.parametrize("absent", ["triton", "wandb"])
def test_the_model_is_imported_after_an_import_of_sat_that_failed(absent: str) -> None:
    if absent == "wandb" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("without deepspeed, SAT does not import wandb")
    preparation = {
        "triton": 'import sys; sys.modules["triton"] = None',
        "wandb": f'{SAT_FIRST}\ndel sys.modules["deepspeed"]; sys.modules["wandb"] = None',
    }
    printed, _ = run(
        preparation[absent]
        + """
try:
    from sat.model import AutoModel
except ModuleNotFoundError as error:
    print(error.name)
from model import VisualGLMModel
from sat.model import AutoModel
from sat.quantization.kernels import quantize
model, args = AutoModel.from_pretrained("visualglm-tiny")
print(type(model) is VisualGLMModel, quantize(model.transformer, 8) is model.transformer)
"""
    )
    assert printed[-2:] == [absent, "True True"]
