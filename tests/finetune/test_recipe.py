"""Recipes: YAML files with the settings of a training."""

from pathlib import Path

import pytest

from finetune.arguments import METHODS, make_parser, parse_arguments, parse_command
from finetune.finetune_visualglm import main
from finetune.recipe import actions_by_key, plain_settings
from model import SettingError

RECIPE = """
# comments are allowed
use_lora: true
train-data: [a.json, b.json]
batch_size: 8
lr: 1e-3
flip: true
fp16: true
layer_range: [0, 2]
from_pretrained:
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_recipe_is_the_same_as_its_flags(recipe: Path) -> None:
    flags = "--use_lora --train-data a.json b.json --batch-size 8 --lr 1e-3 --flip --fp16 --layer_range 0 2"
    assert parse_arguments(["--config", str(recipe)]) == parse_arguments(flags.split())


@pytest.mark.parametrize("flag", ["--config", "--conf"])
def test_flags_override_a_recipe(recipe: Path, flag: str) -> None:
    given = ["--batch-size", "2", "--no-fp16", "--bf16", "--train-data", "c.json"]
    config = parse_arguments([flag, str(recipe), *given])
    assert (config.batch_size, config.fp16, config.bf16, config.lr) == (2, False, True, 1e-3)
    assert config.train_data == [Path("c.json")]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_on_the_command_line_replaces_that_of_the_recipe(recipe: Path, method: str) -> None:
    config = parse_arguments(["--config", str(recipe), f"--{method}"])
    assert [name for name in METHODS if getattr(config, name)] == [method]


def test_the_printed_settings_are_a_recipe_of_the_same_training(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config", str(recipe), "--use_ptuning", "--valid-share", "0.1", "--lr", "2e-5"]
    assert main([*flags, "--print-config"]) == 0
    printed = recipe.with_name("printed.yaml")
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    assert plain_settings(parse_arguments(["--config", str(printed)])) == plain_settings(parse_arguments(flags))
    assert parse_command(["--config", str(printed)]).recipe == printed.read_text(encoding="utf-8")


def test_every_setting_has_a_key() -> None:
    keys = {action.dest for action in actions_by_key(make_parser()).values()}
    assert {*plain_settings(parse_arguments(["--use_lora", "--train-data", "a.json"]))} <= keys


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batchsize: 4", "'batchsize'.*recipe.yaml.*'batch-size'"),
        ("batch-size: many", "'batch-size'.*recipe.yaml.*whole number"),
        ("batch-size: 1.5", "whole number"),
        ("batch-size: true", "whole number"),
        ("batch-size: [1, 2]", "whole number"),
        ("batch-size: 0", "at least 1.*recipe.yaml"),
        ("lr: fast", "'lr'.*a number"),
        ("use_qlora: 1", "true or false"),
        ("zero-stage: 4", "one of 0, 1, 2, 3"),
        ("lr-decay-style: wavy", "one of .*cosine"),
        ("freeze: [eyes]", "one of vit"),
        ("train-data: []", "at least one"),
        ("batch-size: 4\nbatch_size: 4", "twice"),
        ("config: other.yaml", "'config' is not a key"),
        ("no-flip: true", "'no-flip' is not a key"),
        ("- use_lora", "keys with values"),
        ("", "keys with values"),
        ("a: b: c", "not YAML"),
        ("lr: !!python/object:os.system x", "not YAML"),
    ],
)
def test_a_wrong_recipe_is_a_setting_error_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=words) as raised:
        parse_arguments(["--use_lora", "--train-data", "a.json", "--config", str(path)])
    assert "\n" not in str(raised.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"absent\.yaml"):
        parse_arguments(["--config", str(tmp_path / "absent.yaml")])


def test_training_data_is_still_required(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text("use_lora: true", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(recipe)])
    assert "--train-data" in capsys.readouterr().err
