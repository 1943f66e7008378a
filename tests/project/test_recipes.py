"""The recipes in examples/recipes can be read, and one of them trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune.arguments import METHODS, parse_arguments
from finetune.finetune_visualglm import main
from finetune.recipe import plain_settings
from finetune.record import read_record
from tests.helpers.documents import blocks
from tests.helpers.finetuning import data  # noqa: F401

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
SCRIPTS = {
    "fewshot_tiny_lora": ("finetune_visualglm.sh", {}),
    "fewshot_tiny_qlora": ("finetune_visualglm_qlora.sh", {}),
    "fewshot_tiny_ptuning": ("finetune_visualglm.sh", {"METHOD": "--use_ptuning"}),
    "fewshot_background": ("finetune_visualglm.sh", {}),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_is_read_and_says_what_it_is_for(recipe: Path) -> None:
    config = parse_arguments(["--config", str(recipe)])
    assert sum(bool(getattr(config, method)) for method in METHODS) == 1
    text = recipe.read_text(encoding="utf-8")
    for words in (f"--config examples/recipes/{recipe.name}", "# Data: ", "# Hardware: "):
        assert words in text
    given = plain_settings(config)
    written = {key.replace("-", "_"): value for key, value in yaml.safe_load(text).items()}
    assert {name: given[name] for name in written} == written


@pytest.mark.parametrize("name", ["docs/finetuning.md", "docs/finetuning_zh.md"])
def test_the_recipe_of_the_documentation_is_read(name: str, tmp_path: Path) -> None:
    (block,) = blocks(name, "yaml")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(block.text, encoding="utf-8")
    assert parse_arguments(["--config", str(recipe)]).lr == 2e-4


def test_both_readmes_list_every_recipe() -> None:
    assert RECIPES
    for name in ("README.md", "README_zh.md"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert [path.name for path in RECIPES if f"({path.name})" not in text] == []


def test_a_recipe_trains(data: Path, tmp_path: Path) -> None:  # noqa: F811
    given = ["--train-data", str(data), "--save", str(tmp_path), "--device", "cpu", "--num-workers", "0"]
    short = ["--train-iters", "2", "--log-interval", "1", "--rehearsal", "0"]
    assert main(["--config", str(FOLDER / "fewshot_tiny_lora.yaml"), *given, *short]) == 0
    (run,) = tmp_path.iterdir()
    record = read_record(run)
    assert (record["status"], record["steps"], record["settings"]["lora_alpha"]) == ("complete", 2, 10.0)
    assert "loss" in record["numbers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_recipes_of_the_demonstration_are_the_settings_of_its_scripts(name: str, tmp_path: Path) -> None:
    script, variables = SCRIPTS[name]
    for path in ROOT.iterdir():  # the script unpacks the images into its checkout
        if path.name != "fewshot-data":
            (tmp_path / path.name).symlink_to(path)
    recipe = parse_arguments(["--config", str(FOLDER / f"{name}.yaml")])
    command = ["bash", str(tmp_path / "finetune" / script), "--from_pretrained", str(recipe.from_pretrained)]
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    done = subprocess.run([*command, "--print-config"], capture_output=True, text=True, env=environment, check=True)
    printed = tmp_path / "printed.yaml"
    printed.write_text(done.stdout, encoding="utf-8")
    assert plain_settings(parse_arguments(["--config", str(printed)])) == plain_settings(recipe)
