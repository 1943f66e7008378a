"""LoRA of old fine-tunes is merged exactly; adapters that cannot be merged are named in errors."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
import torch
from sat.model.finetune.lora2 import LoraMixin
from sat.model.finetune.prompt_tuning import PTuningV2Mixin

from model import CheckpointError, VisualGLMModel
from model.checkpoint import open_checkpoint, save_sat
from model.checkpoint.layout import interleave_qkv, is_language_qkv, split_qkv
from tests.conftest import relative_error
from tests.helpers.checkpoints import QKV, Small, read_model, write_hf, write_sat

pytestmark = pytest.mark.usefixtures("offline")
RANK, LAYERS = 3, [0, 2]
LORA_CONFIG = {"model_class": "FineTuneVisualGLMModel", "lora_rank": RANK, "use_lora": True, "layer_range": LAYERS}


class WithLora(VisualGLMModel):
    """The original's fine-tuning model."""

    def __init__(self, args: Any, transformer: Any = None, parallel_output: bool = True, **kwargs: Any) -> None:
        super().__init__(args, transformer=transformer, parallel_output=parallel_output, **kwargs)
        self.add_mixin("lora", LoraMixin(args.num_layers, args.lora_rank, layer_range=args.layer_range), reinit=True)

    @classmethod
    def add_model_specific_args(cls, parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument("--lora_rank", type=int, default=RANK)
        parser.add_argument("--layer_range", type=int, nargs="+", default=LAYERS)
        return super().add_model_specific_args(parser)


@pytest.fixture(scope="module")
def trained(small: Small) -> WithLora:
    """The small model with random LoRA matrices."""
    model, config = small
    network = WithLora(WithLora.get_args(**config)).eval()
    tensors = dict(model.state_dict())
    for number in LAYERS:
        for part in ("query_key_value", "dense"):
            for kind in ("weight", "bias"):
                prefix = f"transformer.layers.{number}.attention.{part}."
                tensors[f"{prefix}original.{kind}"] = tensors.pop(prefix + kind)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if ".matrix_" in name:
            tensors[name] = 0.1 * torch.randn(parameter.shape, generator=generator)
    network.load_state_dict(tensors, strict=False)
    return network


def answer(model: VisualGLMModel) -> torch.Tensor:
    """Return the logits of a prompt without an image, with control tokens of the small vocabulary."""
    ids = torch.arange(10, 20)[None]
    positions = torch.arange(10).expand(1, 2, 10)
    with torch.no_grad():
        return model(ids, position_ids=positions, attention_mask=torch.ones(1, 1, 10, 10))[0]


def test_lora_is_merged_where_the_model_has_none(small: Small, trained: WithLora, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", trained.state_dict(), {**small[1], **LORA_CONFIG})
    model, _ = read_model(run)
    assert relative_error(answer(model), answer(trained)) < 1e-5
    assert relative_error(answer(small[0]), answer(trained)) > 1e-2


def test_lora_is_kept_where_the_model_has_it(small: Small, trained: WithLora, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", trained.state_dict(), {**small[1], **LORA_CONFIG})
    model, _ = WithLora.from_pretrained(str(run))
    assert torch.equal(answer(model), answer(trained))


def test_merging_forgets_the_settings_of_training(small: Small, trained: WithLora, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", trained.state_dict(), {**small[1], **LORA_CONFIG})
    merged = open_checkpoint(run).merge_lora()
    assert merged.config["model_class"] == "VisualGLMModel"
    assert not {"lora_rank", "use_lora", "layer_range"} & merged.config.keys()
    assert set(merged.stored_tensors) == set(small[0].state_dict())


def test_the_scale_of_lora_is_alpha_over_rank(small: Small, trained: WithLora, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", trained.state_dict(), {**small[1], **LORA_CONFIG, "lora_alpha": 6})
    merged = dict(open_checkpoint(run).merge_lora().tensors())
    name = "transformer.layers.0.attention.dense"
    tensors = trained.state_dict()
    change = tensors[f"{name}.matrix_B.0"] @ tensors[f"{name}.matrix_A.0"]
    assert torch.allclose(merged[f"{name}.weight"], small[0].state_dict()[f"{name}.weight"] + 6 / RANK * change)


def test_lora_from_before_0_4_1_belongs_to_the_rows_as_they_lay(
    small: Small, trained: WithLora, tmp_path: Path
) -> None:
    name, heads = "transformer.layers.0.attention.query_key_value", small[1]["num_attention_heads"]
    tensors = dict(trained.state_dict())
    for prefix in (f"{name}.original", f"{name}", "transformer.layers.1.attention.query_key_value"):
        for kind in ("weight", "bias"):
            if f"{prefix}.{kind}" in tensors:
                tensors[f"{prefix}.{kind}"] = interleave_qkv(tensors[f"{prefix}.{kind}"], heads)
    config = {key: value for key, value in {**small[1], **LORA_CONFIG}.items() if key != "pad_token_id"}
    checkpoint = open_checkpoint(write_sat(tmp_path / "run", tensors, config))
    change = torch.cat([tensors[f"{name}.matrix_B.{i}"] @ tensors[f"{name}.matrix_A.{i}"] for i in range(3)]) / RANK
    expected = split_qkv(tensors[f"{name}.original.weight"] + change, heads)
    merged = dict(checkpoint.merge_lora().tensors())
    assert torch.allclose(merged[f"{name}.weight"], expected)
    with pytest.raises(CheckpointError, match="merged"):
        next(checkpoint.tensors())


def test_p_tuning_is_named_and_cannot_be_merged(small: Small, tmp_path: Path) -> None:
    model, config = small
    prefixes = PTuningV2Mixin(config["num_layers"], 16, config["num_attention_heads"], 5).state_dict()
    tensors = {**model.state_dict(), **{f"mixins.ptuning.{name}": tensor for name, tensor in prefixes.items()}}
    run = write_sat(tmp_path / "run", tensors, {**config, "use_ptuning": True, "pre_seq_len": 5})
    with pytest.raises(CheckpointError, match=r"mixins\.ptuning\.prefix\.0.*\n.*P-tuning"):
        read_model(run)
    with pytest.raises(CheckpointError, match=r"P-tuning.*merged"):
        open_checkpoint(run).merge_lora()


def test_qlora_is_named(small: Small, trained: WithLora, tmp_path: Path) -> None:
    name = "transformer.layers.0.attention.dense.original"
    tensors: dict[str, Any] = {**trained.state_dict(), f"{name}.quant_state": [torch.zeros(1), [64, 64]]}
    tensors[f"{name}.weight"] = torch.zeros(2048, 1, dtype=torch.uint8)
    run = write_sat(tmp_path / "run", tensors, {**small[1], **LORA_CONFIG, "use_qlora": True})
    with pytest.raises(CheckpointError, match="QLoRA"):
        read_model(run)


def test_lora_without_the_weights_it_changes_asks_for_its_base(small: Small, trained: WithLora, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in trained.state_dict().items() if ".matrix_" in name}
    run = write_sat(tmp_path / "run", tensors, {**small[1], **LORA_CONFIG})
    with pytest.raises(CheckpointError, match="--base "):
        read_model(run)


@pytest.mark.parametrize("base", ["hf", "sat"])
@pytest.mark.parametrize("layout", ["split", "interleaved"])
def test_lora_alone_is_merged_over_its_base(
    base: str, layout: str, small: Small, trained: WithLora, tmp_path: Path
) -> None:
    model, config = small
    if base == "hf":
        write_hf(tmp_path / "base", model, config)
    else:
        save_sat(tmp_path / "base", model.state_dict(), config)
    lora_weights = {name: tensor for name, tensor in trained.state_dict().items() if ".matrix_" in name}
    run = write_sat(tmp_path / "run", lora_weights, {**config, **LORA_CONFIG, "qkv_layout": layout})
    merged = open_checkpoint(run, base=tmp_path / "base").merge_lora().split_qkv()
    rows, heads = model.state_dict(), config["num_attention_heads"]
    for part, count in (("query_key_value", 3), ("dense", 1)):
        name = f"transformer.layers.0.attention.{part}"
        change = torch.cat(
            [lora_weights[f"{name}.matrix_B.{i}"] @ lora_weights[f"{name}.matrix_A.{i}"] for i in range(count)]
        )
        if layout == "interleaved" and count == 3:
            change = split_qkv(change, heads)
        assert torch.allclose(merged[f"{name}.weight"], rows[f"{name}.weight"] + change / RANK, atol=1e-5)
    assert torch.equal(merged[QKV], rows[QKV])


def test_what_was_trained_wins_over_the_base(small: Small, tmp_path: Path) -> None:
    model, config = small
    save_sat(tmp_path / "base", model.state_dict(), config)
    own = {QKV: model.state_dict()[QKV] + 1}
    run = write_sat(tmp_path / "run", own, config)
    whole = dict(open_checkpoint(run, base=tmp_path / "base").tensors())
    assert torch.equal(whole[QKV], own[QKV])
    name = "transformer.final_layernorm.weight"
    assert torch.equal(whole[name], model.state_dict()[name])


def test_a_base_of_another_size_is_refused(small: Small, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", {QKV: small[0].state_dict()[QKV]}, small[1])
    with pytest.raises(CheckpointError, match=r"visualglm-tiny.*(num_layers|hidden_size)"):
        open_checkpoint(run, base="visualglm-tiny")


def test_lora_over_several_ranks_is_refused(small: Small, trained: WithLora, tmp_path: Path) -> None:
    save_sat(tmp_path / "run", trained.state_dict(), {**small[1], **LORA_CONFIG}, model_parallel_size=2)
    with pytest.raises(CheckpointError, match="2 model-parallel ranks"):
        read_model(tmp_path / "run")


def test_only_the_language_models_plain_rows_are_reordered(trained: WithLora) -> None:
    marked = {name for name in trained.state_dict() if is_language_qkv(name)}
    assert QKV in marked
    assert "transformer.layers.0.attention.query_key_value.original.weight" in marked
    assert not any(".matrix_" in name or name.startswith("mixins.") for name in marked)
    assert len(marked) == 6
