"""The directory of a PEFT adapter is loaded like a fine-tuning run, over the base model that it names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.merge import main as merge
from model import CheckpointError, Conversation, GenerationConfig, load_hf, load_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.digest import model_digest
from model.checkpoint.files import open_tensors, write_tensors
from model.checkpoint.peft_adapter import CONFIG_NAME as ADAPTER_NAME, FORMER_WEIGHTS_NAME, WEIGHTS_NAME
from model.checkpoint.save import GENERATION_NAME
from model.loading import check_loadable, load_tokenizer
from model.prompt import ENGLISH
from tests.helpers.checkpoints import QKV, TINY
from tests.helpers.cli_program import run_here

pytestmark = pytest.mark.usefixtures("offline")
LOADERS = [load_sat, load_hf]
CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "visualglm-tiny", "r": 3, "lora_alpha": 6}
PREFIX = "base_model.model.transformer.layers"
QUESTION = "What is this?"


def write_adapter(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write an adapter of PEFT with large weights for visualglm-tiny."""
    config, generator = open_checkpoint("visualglm-tiny").config, torch.Generator().manual_seed(seed)
    width, tensors = config["hidden_size"], {}
    for number in range(config["num_layers"]):
        layer = f"{PREFIX}.{number}.attention.query_key_value"
        tensors[f"{layer}.lora_A.weight"] = 0.3 * torch.randn(3, width, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = 0.3 * torch.randn(3 * width, 3, generator=generator)
    folder.mkdir()
    write_tensors(folder / WEIGHTS_NAME, tensors)
    write_settings(folder, **settings)
    return folder


def write_settings(folder: Path, **settings: Any) -> None:
    """Write the configuration of an adapter."""
    (folder / ADAPTER_NAME).write_text(json.dumps({**CONFIG, **settings}))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A modifiable adapter of PEFT for visualglm-tiny."""
    return write_adapter(tmp_path / "adapter")


def answer(model: Any) -> str:
    """Return a greedy answer."""
    config = GenerationConfig(temperature=0, repetition_penalty=1, max_new_tokens=12)
    return "".join(chunk.text for chunk in model.stream_answer(Conversation(None, [], ENGLISH), QUESTION, config))


@pytest.mark.parametrize("load", LOADERS)
def test_an_adapter_answers_like_its_run_and_its_merged_model(load: Any, adapter: Path, tmp_path: Path) -> None:
    expected = answer(load(adapter, device="cpu"))
    assert expected != answer(load("visualglm-tiny", device="cpu"))
    for to in ("run", "hf", "sat"):
        assert merge([str(adapter), "--out", str(tmp_path / to), "--to", to]) == 0
        assert answer(load(tmp_path / to, device="cpu")) == expected


@pytest.mark.parametrize("program", ["cli_demo.py", "cli_demo_hf.py"])
def test_the_programs_load_it(program: str, adapter: Path) -> None:
    flags = ["--device", "cpu", "--temperature", "0", "--max_length", "48", "--query", QUESTION, "--english"]
    done, plain = (run_here([program, "--from_pretrained", name, *flags]) for name in (str(adapter), "visualglm-tiny"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != plain.stdout.strip() != ""


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("name", ["./gone", "", None])
def test_a_missing_base_is_said_and_can_be_given(name: str | None, load: Any, adapter: Path, tmp_path: Path) -> None:
    expected = answer(load(adapter, device="cpu"))
    write_settings(adapter, base_model_name_or_path=name)
    for refused in (load, lambda path, device: check_loadable(path, device=device, is_hf=load is load_hf)):
        with pytest.raises(CheckpointError, match=r"base_model_name_or_path(.|\n)*--base|--base(.|\n)*base_model_name"):
            refused(adapter, device="cpu")
    base = shutil.copytree(TINY, tmp_path / "elsewhere" / "base")  # also the only tokenizer
    assert answer(load(adapter, device="cpu", base=base)) == expected


def test_it_uses_the_tokenizer_and_the_generation_settings_of_its_base(adapter: Path, tmp_path: Path) -> None:
    base = shutil.copytree(TINY, tmp_path / "other" / "base")
    (base / GENERATION_NAME).write_text(json.dumps({"temperature": 0.125}))
    write_settings(adapter, base_model_name_or_path=str(base))
    assert load_sat(adapter, device="cpu").sampling == {"temperature": 0.125}
    assert load_hf(adapter, device="cpu").network.generation_config.temperature == 0.125
    assert load_tokenizer(adapter).bos_token_id == load_tokenizer("visualglm-tiny").bos_token_id
    (adapter / GENERATION_NAME).write_text(json.dumps({"temperature": 0.25}))
    assert load_sat(adapter, device="cpu").sampling == {"temperature": 0.25}


def test_an_adapter_of_an_adapter_is_added_to_it(adapter: Path, tmp_path: Path) -> None:
    second = write_adapter(tmp_path / "second", seed=1)
    weights = [open_checkpoint(path).merge_lora().split_qkv()[QKV] for path in ("visualglm-tiny", adapter, second)]
    write_settings(second, base_model_name_or_path=str(adapter))
    both = open_checkpoint(second).merge_lora().split_qkv()[QKV]
    assert torch.allclose(both, weights[1] + weights[2] - weights[0], atol=0.05)
    write_settings(adapter, base_model_name_or_path=str(second))
    with pytest.raises(CheckpointError, match="cyclic"):
        open_checkpoint(second)


def test_the_adapter_in_a_model_directory_is_loaded(adapter: Path) -> None:
    shutil.copy(TINY / "config.json", adapter)
    assert open_checkpoint(adapter).has_lora


def test_the_digest_depends_on_the_scale(adapter: Path) -> None:
    before = model_digest(open_checkpoint(adapter))
    write_settings(adapter, lora_alpha=7)
    assert model_digest(open_checkpoint(adapter)) != before


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"alpha_pattern": ["dense"]}, "alpha_pattern"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_adapters_are_refused(settings: dict[str, Any], word: str, load: Any, adapter: Path) -> None:
    write_settings(adapter, **settings)
    with pytest.raises(CheckpointError, match=word):
        load(adapter, device="cpu")


@pytest.mark.parametrize(
    ("name", "shape", "word"),
    [
        (f"{PREFIX}.9.attention.query_key_value", (3, 3), "base model lacks"),
        (f"{PREFIX}.0.attention.query_key_value", (3, 8), "does not match"),
        (f"{PREFIX}.0.attention.rotary_emb", (3, 3), "supported"),
        (f"{PREFIX}.0.attention.query_key_value", (), "lora_A"),
    ],
)
def test_an_adapter_of_another_model_is_refused(name: str, shape: tuple[int, ...], word: str, adapter: Path) -> None:
    ends = ("lora_A", "lora_B") if shape else ("lora_B",)
    write_tensors(adapter / WEIGHTS_NAME, {f"{name}.{end}.weight": torch.zeros(shape or (3, 3)) for end in ends})
    with pytest.raises(CheckpointError, match=word):
        load_sat(adapter, device="cpu")


def test_the_weight_file_of_earlier_versions_is_read(adapter: Path) -> None:
    expected = answer(load_sat(adapter, device="cpu"))
    torch.save(dict(open_tensors(adapter / WEIGHTS_NAME)), adapter / FORMER_WEIGHTS_NAME)
    (adapter / WEIGHTS_NAME).unlink()
    assert answer(load_sat(adapter, device="cpu")) == expected


def test_missing_weights_are_said(adapter: Path) -> None:
    (adapter / WEIGHTS_NAME).unlink()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_NAME} does not exist"):
        load_sat(adapter, device="cpu")
