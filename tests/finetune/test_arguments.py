"""The command line of the original works with the same meaning; contradictory flags raise an error."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from finetune.arguments import METHODS, parse_arguments
from finetune.config import TrainingConfig
from model import SettingError

# The flags of the original's finetune_visualglm.sh.
ORIGINAL = """--experiment-name finetune-visualglm-6b --model-parallel-size 1 --mode finetune --train-iters 300
--resume-dataloader --max_source_length 64 --max_target_length 256 --lora_rank 10 --layer_range 0 14 --pre_seq_len 4
--train-data ./fewshot-data/dataset.json --valid-data ./fewshot-data/dataset.json --distributed-backend nccl
--lr-decay-style cosine --warmup .02 --checkpoint-activations --save-interval 300 --eval-interval 10000
--save ./checkpoints --split 1 --eval-iters 10 --eval-batch-size 8 --zero-stage 1 --lr 0.0001 --batch-size 4
--skip-init --fp16 --use_lora"""
NEEDED = ["--train-data", "data.json"]


def test_the_originals_command_line() -> None:
    options = parse_arguments(ORIGINAL.split())
    assert options.use_lora
    assert not options.use_ptuning
    assert options.layer_range == [0, 14]
    assert options.max_length == 320
    assert (options.train_iters, options.zero_stage, options.lr, options.fp16) == (300, 1, 1e-4, True)
    assert options.train_data == [Path("fewshot-data/dataset.json")]


def test_hyphens_and_underscores_are_the_same() -> None:
    hyphens = parse_arguments([*NEEDED, "--use-lora", "--lora-rank", "3", "--batch-size", "7"])
    underscores = parse_arguments(["--train_data", "data.json", "--use_lora", "--lora_rank", "3", "--batch_size", "7"])
    assert hyphens == underscores


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "Choose one of --use_lora"),
        (["--use_lora", "--use_ptuning"], "--use_lora and --use_ptuning"),
        (["--use_lora", "--fp16", "--bf16"], "Choose one"),
        (["--use_lora", "--freeze", "vit"], "requires --full"),
        (["--use_lora", "--batch-size", "0"], "at least 1"),
        (["--use_lora", "--lr", "0"], "above 0"),
        (["--use_lora", "--crop", "1.5"], "at most 1"),
        (["--use_qlora", "--save-full"], r"finetune\.merge"),
        (["--use_lora", "--metric", "chrf"], "--valid-data"),
        (["--use_lora", "--metric", "chrf", "--valid-share", "0.1", "--eval-answers", "0"], "--eval-answers"),
        (["--use_lora", "--metric", "chrf", "--valid-share", "0.1", "--zero-stage", "3"], "--zero-stage 3"),
    ],
)
def test_contradictory_flags_raise_an_error(flags: list[str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        parse_arguments([*NEEDED, *flags])


def test_ptuning_has_a_higher_default_learning_rate() -> None:
    rates = {method: parse_arguments([*NEEDED, f"--{method}"]).lr for method in METHODS}
    assert rates.pop("use_ptuning") == 0.02
    assert set(rates.values()) == {1e-4}
    assert parse_arguments([*NEEDED, "--use_ptuning", "--lr", "0.1"]).lr == 0.1


@pytest.mark.parametrize("method", METHODS)
def test_each_method_alone_is_enough(method: str) -> None:
    options = parse_arguments([*NEEDED, f"--{method}"])
    assert [name for name in METHODS if getattr(options, name)] == [method]


def test_a_configuration_is_the_same_from_the_command_line_and_from_python() -> None:
    made = TrainingConfig(train_data=[Path("data.json")], use_lora=True)
    assert parse_arguments([*NEEDED, "--use_lora"]) == made


def test_a_configuration_is_immutable_and_always_checked() -> None:
    config = TrainingConfig(train_data=[Path("data.json")], full=True, freeze=["vit"])
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]
    with pytest.raises(SettingError, match="--lr"):
        TrainingConfig(train_data=[], full=True, lr=0)


@pytest.mark.parametrize("name", [field.name for field in fields(TrainingConfig) if field.type in (int, "int")])
def test_integer_flags_are_parsed_as_integers(name: str) -> None:
    assert getattr(parse_arguments([*NEEDED, "--use_lora", f"--{name}", "3"]), name) == 3
