"""A merged fine-tune has the logits that it had before; LoRA keeps its effect on the way to PEFT and back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.merge import main
from model import load_hf, load_sat
from model.checkpoint import open_checkpoint
from tests.finetuning import batch_of, data, train  # noqa: F401

# PEFT asks transformers by a name that is going to change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
EVERYWHERE = ["--use_lora", "--lora_targets", "llm", "mlp", "head", "qformer", "vit", "--layer_range", "0", "2"]


@pytest.fixture(scope="module", params=[EVERYWHERE, ["--use_qlora"]], ids=["lora", "qlora"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run with LoRA that has moved far. Do not change it."""
    return train(data, tmp_path_factory.mktemp("runs"), *request.param, "--lora_rank", "4", "--lr", "2e-2")


def logits(network: Any, data: Path, hf: bool = False) -> torch.Tensor:  # noqa: F811
    """Return the logits [T, V] of a first example, its picture included."""
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


def test_lora_goes_to_peft_and_back(run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    peft = pytest.importorskip("peft", reason="peft is not installed")
    if open_checkpoint(run).config["use_qlora"]:
        return  # its base is rounded, which the one that PEFT adapts is not
    assert main([str(run), "--out", str(tmp_path / "peft"), "--to", "peft"]) == 0
    base = load_hf("visualglm-tiny", device="cpu").network
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    expected = logits(load_sat(run, device="cpu", dtype="float32").network, data)
    assert torch.allclose(logits(adapted, data, hf=True), expected, atol=0.02)
    assert main([str(tmp_path / "peft"), "--out", str(tmp_path / "back"), "--to", "run"]) == 0
    assert torch.allclose(logits(load_sat(tmp_path / "back", device="cpu").network, data), expected, atol=0.02)


def test_an_adapter_that_peft_has_trained_becomes_a_run(data: Path, tmp_path: Path) -> None:  # noqa: F811
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = load_hf("visualglm-tiny", device="cpu").network
    config = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=["query_key_value", "dense", "dense_4h_to_h"],
        rank_pattern={"attention.dense": 2},
        exclude_modules=r".*image_encoder.*",
    )
    adapted = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "peft")
    assert (
        main([str(tmp_path / "peft"), "--out", str(tmp_path / "run"), "--to", "run", "--base", "visualglm-tiny"]) == 0
    )
    network = load_sat(tmp_path / "run", device="cpu").network
    expected = logits(adapted, data, hf=True)
    assert not torch.allclose(logits(load_sat("visualglm-tiny", device="cpu").network, data), expected, atol=1)
    assert torch.allclose(logits(network, data), expected, atol=0.05)


def test_what_cannot_be_merged_is_said(
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefixed = train(data, tmp_path / "runs", "--use_ptuning")
    capsys.readouterr()
    for source, to, words in (
        (str(prefixed), "sat", "P-tuning"),
        (str(prefixed), "peft", "no LoRA"),
        ("nowhere", "sat", "no model called"),
    ):
        assert main([source, "--out", str(tmp_path / "out"), "--to", to]) == 1
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
