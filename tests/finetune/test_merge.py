"""Merging a run and converting its LoRA to PEFT and back do not change the logits."""

import re
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.merge import main
from model import FineTuneVisualGLMModel, load_hf, load_sat
from model.checkpoint import open_checkpoint
from tests.helpers.finetuning import batch_of, data, train  # noqa: F401

# PEFT uses a deprecated name of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
EVERYWHERE = ["--use_lora", "--lora_targets", "llm", "mlp", "head", "qformer", "vit", "--layer_range", "0", "2"]
PATTERNS = ["--use_lora", "--lora_targets", "query_key_value", r".*cross_attention\.(dense|query)"]


@pytest.fixture(scope="module", params=[EVERYWHERE, PATTERNS, ["--use_qlora"]], ids=["lora", "patterns", "qlora"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run with large LoRA weights. Do not change it."""
    return train(data, tmp_path_factory.mktemp("runs"), *request.param, "--lora_rank", "4", "--lr", "2e-2")


def logits(network: Any, data: Path, hf: bool = False) -> torch.Tensor:  # noqa: F811
    """Return the logits [T, V] of the first example, with its image."""
    batch = batch_of(data, load_sat("visualglm-tiny", device="cpu").network)
    ids, pixels, start = batch.input_ids[:1], batch.pixels[:1], batch.image_starts[0]
    with torch.no_grad():
        if hf:
            return network(ids, images=pixels, pre_image_length=start).logits[0]
        mask = batch.attention_mask[:1].float()
        return network(ids, image=pixels, pre_image=start, position_ids=batch.position_ids[:1], attention_mask=mask)[0][
            0
        ]


@pytest.mark.parametrize("to", ["sat", "hf"])
def test_a_merged_model_has_the_same_logits(to: str, run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    assert main([str(run), "--out", str(tmp_path / to), "--to", to]) == 0
    before, after = load_sat(run, device="cpu").network, load_sat(tmp_path / to, device="cpu").network
    assert torch.equal(logits(after, data), logits(before, data))
    assert "base_model" not in open_checkpoint(tmp_path / to).config
    if to == "hf":
        network = load_hf(tmp_path / to, device="cpu").network
        assert torch.allclose(logits(network, data, hf=True), logits(before, data), atol=1e-3)


def test_lora_is_converted_to_peft_and_back(run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    peft = pytest.importorskip("peft", reason="peft is not installed")
    if open_checkpoint(run).config["use_qlora"]:
        return  # its base weights are quantized, unlike those that PEFT adapts
    assert main([str(run), "--out", str(tmp_path / "peft"), "--to", "peft"]) == 0
    base = load_hf("visualglm-tiny", device="cpu").network
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    expected = logits(load_sat(run, device="cpu", dtype="float32").network, data)
    assert torch.allclose(logits(adapted, data, hf=True), expected, atol=0.02)
    assert main([str(tmp_path / "peft"), "--out", str(tmp_path / "back"), "--to", "run"]) == 0
    assert torch.allclose(logits(load_sat(tmp_path / "back", device="cpu").network, data), expected, atol=0.02)


LAYER = re.compile(r"\.matrix_A\.\d+$")
ADAPTERS = {
    "usual": {"target_modules": ["query_key_value"]},
    "language": {"target_modules": ["query_key_value"], "exclude_modules": r".*image_encoder.*"},
    "two-layers": {"target_modules": ["dense"], "layers_to_transform": [0, 2], "exclude_modules": r".*image_encoder.*"},
    "image-mlp": {"target_modules": r".*\.vit\..*\.dense_h_to_4h|.*\.cross_attention\.query"},
    "head": {"target_modules": ["lm_head", "dense_4h_to_h"]},
    "several-ranks": {
        "target_modules": ["query_key_value", "dense", "dense_4h_to_h"],
        "rank_pattern": {"attention.dense": 2},
        "exclude_modules": r".*image_encoder.*",
    },
}


def save_peft_adapter(directory: Path, **settings: Any) -> Any:
    """Save an adapter of PEFT for visualglm-tiny with random weights; return the adapted network."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = load_hf("visualglm-tiny", device="cpu").network
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=7, **settings))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    with warnings.catch_warnings(action="ignore"):  # PEFT warns that it also saves the weight of the head
        adapted.save_pretrained(directory)
    return adapted


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_of_peft_is_converted_to_a_run(
    adapter: str,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    adapted = save_peft_adapter(tmp_path / "peft", **ADAPTERS[adapter])
    arguments = ["--out", str(tmp_path / "run"), "--to", "run", "--base", "visualglm-tiny"]
    assert main([str(tmp_path / "peft"), *arguments]) == 0
    merged = load_sat(tmp_path / "run", device="cpu").network
    expected = logits(adapted, data, hf=True)
    assert not torch.allclose(logits(load_sat("visualglm-tiny", device="cpu").network, data), expected, atol=0.2)
    assert torch.allclose(logits(merged, data), expected, atol=0.05)
    trainable, _ = FineTuneVisualGLMModel.from_pretrained(str(tmp_path / "run"), Namespace(device="cpu"))
    assert torch.allclose(logits(trainable, data), expected, atol=0.05)
    layers = sum(name.endswith(".lora_A.default.weight") for name, _ in adapted.named_parameters())
    assert len({LAYER.sub("", name) for name, _ in trainable.named_parameters() if LAYER.search(name)}) == layers


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"target_modules": ["query_key_value", "word_embeddings"]}, "lora_embedding"),
        ({"target_modules": ["query_key_value"], "init_lora_weights": "pissa"}, "pissa"),
        ({"target_modules": ["query_key_value"], "use_dora": True}, "use_dora"),
        ({"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_adapter_that_is_more_than_lora_on_linear_layers_is_refused(
    settings: dict[str, Any], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_peft_adapter(tmp_path / "peft", **settings)
    arguments = ["--out", str(tmp_path / "run"), "--to", "run", "--base", "visualglm-tiny"]
    assert main([str(tmp_path / "peft"), *arguments]) == 1
    assert word in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_merged_raises_an_error(
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefixed = train(data, tmp_path / "runs", "--use_ptuning")
    capsys.readouterr()
    for source, to, words in (
        (str(prefixed), "sat", "P-tuning"),
        (str(prefixed), "peft", "no LoRA"),
        (str(prefixed), "run", "adapter_config.json"),
        ("nowhere", "sat", "no model called"),
    ):
        assert main([source, "--out", str(tmp_path / "out"), "--to", to]) == 1
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
