"""`import model.hf` registers our classes with transformers' Auto classes, regardless of code in the directory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from model.hf import ChatGLMConfig, ChatGLMForConditionalGenerationWithImage, ChatGLMTokenizer
from model.hf.export import CONFIG_MAP, TOKENIZER_MAP
from tests.helpers.hf_models import TINY, tiny_model, tiny_tokenizer
from tests.helpers.preloaded import run_preloaded

MAJOR = int(transformers.__version__.split(".")[0])
PUBLISHED_FILES = ("configuration_chatglm", "modeling_chatglm", "tokenization_chatglm", "visual", "quantization")
trusted = pytest.mark.parametrize(
    "arguments",
    [
        {},
        pytest.param(
            {"trust_remote_code": True},
            marks=pytest.mark.skipif(MAJOR < 5, reason="transformers 4 always prefers a directory's own code"),
        ),
    ],
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory of the published layout, whose code raises when it is imported."""
    directory = tmp_path / "published"
    shutil.copytree(TINY, directory)
    for name in PUBLISHED_FILES:
        (directory / f"{name}.py").write_text("raise RuntimeError('the old code ran')\n")
    for name, auto_map in (("config.json", CONFIG_MAP), ("tokenizer_config.json", TOKENIZER_MAP)):
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**content, "auto_map": auto_map}))
    return directory


@trusted
def test_a_directory_with_old_code_loads_through_ours(published: Path, arguments: dict[str, Any]) -> None:
    config = AutoConfig.from_pretrained(published, **arguments)
    tokenizer = AutoTokenizer.from_pretrained(published, **arguments)
    model = AutoModel.from_pretrained(published, dtype=torch.float32, **arguments)
    assert (type(config), type(tokenizer)) == (ChatGLMConfig, ChatGLMTokenizer)
    assert type(model) is ChatGLMForConditionalGenerationWithImage
    assert tokenizer.encode("你好") == tiny_tokenizer().encode("你好")
    settings = {"do_sample": False, "min_length": 0}
    assert model.chat(tokenizer, "", "你好", **settings) == tiny_model().chat(tiny_tokenizer(), "", "你好", **settings)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM])
def test_a_directory_without_code_loads_through_every_auto_class(auto_class: Any) -> None:
    assert type(auto_class.from_pretrained(TINY)) is ChatGLMForConditionalGenerationWithImage
    config = AutoConfig.from_pretrained(TINY)
    assert type(auto_class.from_config(config)) is ChatGLMForConditionalGenerationWithImage


def test_a_tokenizer_without_a_configuration_of_its_own_is_found(tmp_path: Path) -> None:
    for name in ("config.json", "ice_text.model"):
        shutil.copyfile(TINY / name, tmp_path / name)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ChatGLMTokenizer


def test_what_is_imported_is_what_is_needed() -> None:
    heavy = {"model.hf", "transformers", "transformers.modeling_utils"}
    code = f"print(*sorted({heavy} & {{*sys.modules}}))"
    for module, imported in (("model", []), ("model.hf", ["model.hf", "transformers"])):
        run = run_preloaded(f"import sys, {module}; {code}")
        assert run.returncode == 0, run.stderr
        assert run.stdout.split() == imported
