"""Fine-tuning programs for the original run unchanged: load, adapt, save, reload, merge and chat."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from sat.model import AutoModel
from sat.model.base_model import BaseMixin
from sat.model.finetune import PTuningV2Mixin
from sat.model.finetune.lora2 import LoraMixin
from sat.model.mixins import CachedAutoregressiveMixin
from sat.training.model_io import save_checkpoint

from model import CheckpointError, VisualGLMModel
from model.checkpoint import open_checkpoint
from tests.helpers.checkpoints import write_sat
from tests.helpers.sat_programs import ANSWER, ON_CPU, ask, close, logits_of, sat_directory, tiny_tokenizer  # noqa: F401


class FineTuneVisualGLMModel(VisualGLMModel):
    """A copy of the original's fine-tuning class, as in users' programs."""

    def __init__(self, args: Any, transformer: Any = None, parallel_output: bool = True, **kw_args: Any) -> None:
        super().__init__(args, transformer=transformer, parallel_output=parallel_output, **kw_args)
        if args.use_ptuning:
            head_dim = args.hidden_size // args.num_attention_heads
            self.add_mixin(
                "ptuning", PTuningV2Mixin(args.num_layers, head_dim, args.num_attention_heads, args.pre_seq_len)
            )
        if args.use_lora:
            self.add_mixin(
                "lora", LoraMixin(args.num_layers, args.lora_rank, layer_range=args.layer_range), reinit=True
            )
        self.args = args

    @classmethod
    def add_model_specific_args(cls, parser: Any) -> Any:
        group = parser.add_argument_group("VisualGLM-finetune", "VisualGLM finetune Configurations")
        group.add_argument("--pre_seq_len", type=int, default=8)
        group.add_argument("--lora_rank", type=int, default=10)
        group.add_argument("--use_ptuning", action="store_true")
        group.add_argument("--use_lora", action="store_true")
        group.add_argument("--use_qlora", action="store_true")
        group.add_argument("--layer_range", nargs="+", type=int, default=None)
        return super().add_model_specific_args(parser)

    def disable_untrainable_params(self) -> None:
        enable = ["ptuning"] if self.args.use_ptuning else []
        if self.args.use_lora:
            enable.extend(["matrix_A", "matrix_B"])
        for name, parameter in self.named_parameters():
            if not any(part.lower() in name.lower() for part in enable):
                parameter.requires_grad_(False)


class ScaledMixin(BaseMixin):
    """A user's mixin that initializes itself from the loaded weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.copied = torch.nn.Parameter(torch.zeros(size))

    def reinit(self, parent_model: Any = None) -> None:
        self.copied.data.copy_(parent_model.transformer.final_layernorm.weight.data)


class WithScale(VisualGLMModel):
    def __init__(self, args: Any, transformer: Any = None, **kwargs: Any) -> None:
        super().__init__(args, transformer=transformer, **kwargs)
        self.add_mixin("scaled", ScaledMixin(args.hidden_size))


@pytest.fixture
def trained(base: str) -> FineTuneVisualGLMModel:
    """A LoRA fine-tune with changed matrices."""
    given = Namespace(use_lora=True, lora_rank=4, layer_range=[0, 3], lora_dropout=0.0, **ON_CPU)
    model, args = FineTuneVisualGLMModel.from_pretrained(base, given)
    model.args = args
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "matrix_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def save_as_training_does(directory: Path, model: VisualGLMModel, args: Namespace) -> str:
    """Save with SAT's function, in the format of its training without deepspeed."""
    args.save, args.mode = str(directory), "inference"
    save_checkpoint(300, model, None, None, args)
    return str(directory)


def test_the_finetuning_programs_arguments(base: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--max_source_length", type=int)
    parser = FineTuneVisualGLMModel.add_model_specific_args(parser)
    known, rest = parser.parse_known_args(["--use_lora", "--lora_rank", "3", "--layer_range", "1", "2", "--fp16"])
    assert rest == ["--fp16"]
    known.device = "cpu"
    model, args = FineTuneVisualGLMModel.from_pretrained(base, known)
    wrapped = [hasattr(layer.attention.dense, "matrix_A") for layer in model.transformer.layers]
    assert [number for number, has in enumerate(wrapped) if has] == [1, 2]
    assert args.hidden_size == model.transformer.hidden_size
    assert args.lora_rank == 3


@pytest.mark.parametrize("name", ["base", "visualglm-tiny"])  # SAT and Hugging Face, with different QKV row order
def test_lora_starts_as_its_base(name: str, base: str, tokenizer: Any) -> None:
    plain, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
    place = base if name == "base" else name
    model, _ = FineTuneVisualGLMModel.from_pretrained(place, Namespace(use_lora=True, **ON_CPU))
    assert close(logits_of(model, tokenizer), logits_of(plain, tokenizer))
    assert ask(model, tokenizer) == ANSWER


@pytest.mark.parametrize("flag", ["use_lora", "use_ptuning"])
def test_a_finetune_trains_only_its_adapters(flag: str, base: str, tokenizer: Any) -> None:
    model, _ = FineTuneVisualGLMModel.from_pretrained(base, Namespace(**{flag: True}, **ON_CPU))
    model.disable_untrainable_params()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("matrix_" in name or name.startswith("mixins.ptuning.") for name in trainable)
    logits_of(model.train(), tokenizer).float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_a_saved_lora_run_answers_the_same_however_it_is_loaded(
    trained: FineTuneVisualGLMModel, tokenizer: Any, tmp_path: Path
) -> None:
    run = save_as_training_does(tmp_path / "run", trained, trained.args)
    expected, answer = logits_of(trained, tokenizer), ask(trained, tokenizer)
    for load in (AutoModel, FineTuneVisualGLMModel):
        model, args = load.from_pretrained(run, args=Namespace(**ON_CPU))
        assert type(model) is FineTuneVisualGLMModel
        assert args.layer_range == [0, 3]
        assert torch.equal(logits_of(model, tokenizer), expected)
        model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
        assert ask(model, tokenizer) == answer
    for place, loader in ((run, VisualGLMModel), (f"{run}/300", AutoModel)):
        model, _ = loader.from_pretrained(place, args=Namespace(**ON_CPU))
        assert close(logits_of(model, tokenizer), expected)


def test_the_merging_program(trained: FineTuneVisualGLMModel, base: str, tokenizer: Any, tmp_path: Path) -> None:
    expected, answer = logits_of(trained, tokenizer), ask(trained, tokenizer)
    plain, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
    assert not close(logits_of(plain, tokenizer), expected)
    trained.get_mixin("lora").merge_lora()
    assert close(logits_of(trained, tokenizer), expected)
    trained.args.layer_range = []
    directory = save_as_training_does(tmp_path / "merge_lora", trained, trained.args)
    model, _ = AutoModel.from_pretrained(directory, args=Namespace(**ON_CPU))
    assert close(logits_of(model, tokenizer), expected)
    assert ask(model, tokenizer) == answer


def test_a_class_that_is_not_imported_gives_way(
    trained: FineTuneVisualGLMModel, base: str, tokenizer: Any, tmp_path: Path
) -> None:
    config = {**open_checkpoint(base).config, "model_class": "FineTuneXrayModel", "use_lora": True, "lora_rank": 4}
    run = write_sat(tmp_path / "run", trained.state_dict(), config, 300)
    with pytest.warns(UserWarning, match="FineTuneXrayModel") as caught:
        model, _ = AutoModel.from_pretrained(str(run), args=Namespace(**ON_CPU))
    assert caught[0].filename == __file__
    assert close(logits_of(model, tokenizer), logits_of(trained, tokenizer))


def test_p_tuning_is_saved_loaded_and_chats(base: str, tokenizer: Any, tmp_path: Path) -> None:
    model, args = FineTuneVisualGLMModel.from_pretrained(base, Namespace(use_ptuning=True, pre_seq_len=3, **ON_CPU))
    for prefix in model.get_mixin("ptuning").prefix:
        prefix.data.normal_()
    run = save_as_training_does(tmp_path / "run", model, args)
    loaded, _ = AutoModel.from_pretrained(run, args=Namespace(**ON_CPU))
    loaded.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    assert torch.equal(logits_of(loaded, tokenizer), logits_of(model, tokenizer))
    assert ask(loaded, tokenizer) == ask(model, tokenizer)
    plain, _ = VisualGLMModel.from_pretrained(base, args=Namespace(**ON_CPU))
    assert not close(logits_of(loaded, tokenizer), logits_of(plain, tokenizer))


def test_p_tuning_over_a_lora_run_keeps_the_lora(trained: FineTuneVisualGLMModel, tmp_path: Path) -> None:
    run = save_as_training_does(tmp_path / "run", trained, trained.args)
    model, _ = FineTuneVisualGLMModel.from_pretrained(run, Namespace(**ON_CPU), overwrite_args={"use_ptuning": True})
    assert len(model.get_mixin("ptuning").prefix) == len(model.transformer.layers)
    ours, theirs = model.state_dict(), trained.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    wish = {"use_ptuning": True, "use_lora": False}
    merged, _ = FineTuneVisualGLMModel.from_pretrained(run, Namespace(**ON_CPU), overwrite_args=wish)
    weight = merged.transformer.layers[0].attention.dense.weight
    trained.get_mixin("lora").merge_lora()
    assert torch.allclose(weight, trained.transformer.layers[0].attention.dense.weight, atol=1e-6)


def test_a_new_mixin_starts_from_the_loaded_weights(base: str) -> None:
    model, _ = WithScale.from_pretrained(base, Namespace(**ON_CPU))
    weight = model.transformer.final_layernorm.weight
    assert not torch.equal(weight, torch.ones_like(weight))
    assert torch.equal(model.get_mixin("scaled").copied, weight)


@pytest.mark.parametrize("absent", ["mixins.eva.", "transformer.layers.0.attention.dense.weight", "mixins.chatglm"])
def test_a_finetune_does_not_take_missing_weights_for_new_ones(absent: str, base: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    tensors = {name: tensor for name, tensor in checkpoint.tensors() if not name.startswith(absent)}
    run = write_sat(tmp_path / "run", tensors, checkpoint.config)
    with pytest.raises(CheckpointError, match="missing: "):
        FineTuneVisualGLMModel.from_pretrained(str(run), Namespace(use_lora=True, **ON_CPU))
