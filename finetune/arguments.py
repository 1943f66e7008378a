"""The command line of fine-tuning: the original's flags, with their original meanings, and additional ones."""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model.command_line import ArgumentParser
from model.errors import SettingError
from model.finetuned import add_method_flags

from .config import (
    COMPONENTS,
    DEFAULT_EPOCHS,
    DEFAULT_LEARNING_RATE,
    METHODS,
    PTUNING_LEARNING_RATE,
    TrainingConfig,
)
from .recipe import apply_recipe, format_recipe

__all__ = [
    "COMPONENTS",
    "DEFAULT_EPOCHS",
    "DEFAULT_LEARNING_RATE",
    "METHODS",
    "PTUNING_LEARNING_RATE",
    "TrainingCommand",
    "TrainingConfig",
    "make_parser",
    "parse_arguments",
    "parse_command",
]

# Flags of the original that are accepted and have no effect here.
WITHOUT_EFFECT = {
    "--mode": 1,
    "--model-parallel-size": 1,
    "--resume-dataloader": 0,
    "--distributed-backend": 1,
    "--skip-init": 0,
    "--split": 1,
    "--local_rank": 1,
    "--deepspeed": 0,
    "--eval-iters": 1,
    "--strict-eval": 0,
    "--save-args": 0,
    "--checkpoint-num-layers": 1,
    "--prefetch-factor": 1,
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    parser = ArgumentParser(prog="finetune_visualglm.py", description="Fine-tune VisualGLM.")
    add_recipe(parser)
    add_model(Group(parser, "model and method"))
    add_data(Group(parser, "data"))
    add_training(Group(parser, "training"))
    add_memory(Group(parser, "precision and memory"))
    add_evaluation(Group(parser, "evaluation"))
    add_saving(Group(parser, "saving"))
    ignored = parser.add_argument_group("flags of the original without effect")
    for flag, count in WITHOUT_EFFECT.items():
        kind: dict[str, Any] = {"nargs": "?"} if count else {"nargs": 0, "action": Ignored}
        ignored.add_argument(flag, help=argparse.SUPPRESS, **kind)
    return parser


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the flags of recipes, and of several trainings."""
    group = parser.add_argument_group("recipe")
    help_ = "read settings from this YAML file, whose keys are the names of the flags; flags override them"
    group.add_argument("--config", type=Path, metavar="FILE", help=help_)
    help_ = "print all settings as YAML, which --config reads, and exit"
    group.add_argument("--print-config", action="store_true", help=help_)
    help_ = "train with each of these seeds, one run after another, and print the mean and interval of every number"
    group.add_argument("--seeds", type=int, nargs="+", default=(), metavar="SEED", help=help_)


WITH_UNDERSCORES = ("from_pretrained",)  # as in the original


class Ignored(argparse.Action):
    """A flag without effect."""

    def __call__(self, *_: Any) -> None:
        pass


class Group:
    """Adds flags to a titled group of a parser, with the defaults of `TrainingConfig`."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self.group = parser.add_argument_group(title)

    def add(self, flag: str, *former: str, **options: Any) -> None:
        """Add a flag.

        Args:
            flag: its name; the setting of this name in `TrainingConfig` is the default.
            former: former names of the flag, which still work.
            options: see argparse's `add_argument`.
        """
        name = flag.lstrip("-").replace("-", "_")
        options.setdefault("default", getattr(TrainingConfig, name, None))
        self.group.add_argument(flag, *former, **options)

    def add_settings(self, first: str, last: str) -> None:
        """Add the flags of the settings from `first` to `last`, in the order of `TrainingConfig`."""
        settings = {item.name: item for item in fields(TrainingConfig)}
        names, types = list(settings), get_type_hints(TrainingConfig)
        for name in names[names.index(first) : names.index(last) + 1]:
            options = {**options_of_type(types[name]), **settings[name].metadata}
            if settings[name].default is MISSING:
                options["required"] = True
            flag = name if name in WITH_UNDERSCORES else name.replace("_", "-")
            self.add(f"--{flag}", *options.pop("former"), **options)


def options_of_type(kind: Any) -> dict[str, Any]:
    """Return the options of `add_argument` for a setting of a type."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}  # so that the command line can override a recipe's true
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    single = next(iter(get_args(kind)), kind)  # of a sequence, or of `int | None`
    several = {"nargs": "+"} if get_origin(kind) is Sequence else {}
    return several if single is str else {"type": single, **several}


def add_model(group: Group) -> None:
    """Add the flags of the base model and the fine-tuning method."""
    group.add_settings("from_pretrained", "from_pretrained")
    add_method_flags(group.add, TrainingConfig.pre_seq_len)
    group.add_settings("full", "freeze")


def add_data(group: Group) -> None:
    """Add the flags of the data."""
    group.add_settings("train_data", "group_by_length")
    help_ = "as in the original; --max-length defaults to the sum of the two"
    group.add("--max_source_length", type=int, metavar="N", help=help_)
    group.add("--max_target_length", type=int, metavar="N", help="see --max_source_length")


def add_training(group: Group) -> None:
    """Add the flags of the optimization."""
    group.add_settings("train_iters", "seed")


def add_memory(group: Group) -> None:
    """Add the flags of precision and memory."""
    group.add_settings("device", "cache_images")


def add_evaluation(group: Group) -> None:
    """Add the flags of the evaluation."""
    group.add_settings("eval_interval", "wandb_project_name")


def add_saving(group: Group) -> None:
    """Add the flags of runs and checkpoints."""
    group.add_settings("save", "allow_changed_data")


@dataclass(frozen=True)
class TrainingCommand:
    """A command line of fine-tuning.

    Attributes:
        config: the settings of the training.
        seeds: the seeds to train with, one run for each; empty for a single run with the seed of `config`.
        recipe: the settings as YAML.
        prints_recipe: whether to print the recipe instead of training.
    """

    config: TrainingConfig
    seeds: Sequence[int]
    recipe: str
    prints_recipe: bool


def parse_command(arguments: Sequence[str] | None = None) -> TrainingCommand:
    """Parse the command line, and the recipe that it names.

    Raises:
        SettingError: flags contradict each other, a number is out of range, or the recipe is invalid.
    """
    parser = make_parser()
    given = vars(parse_with_recipe(parser, arguments))
    if given["lr"] is None:
        given["lr"] = PTUNING_LEARNING_RATE if given["use_ptuning"] else DEFAULT_LEARNING_RATE
    if given["max_length"] is None:
        lengths = (given["max_source_length"], given["max_target_length"])
        given["max_length"] = sum(lengths) if None not in lengths else TrainingConfig.max_length
    config = make_config({field.name: given[field.name] for field in fields(TrainingConfig)}, given["config"])
    recipe = format_recipe(config, parser, seeds=list(given["seeds"]))
    return TrainingCommand(config, given["seeds"], recipe, given["print_config"])


def make_config(settings: dict[str, Any], recipe: Path | None) -> TrainingConfig:
    """Return the configuration; the error message for contradictory settings names the recipe.

    Raises:
        SettingError: see `TrainingConfig`.
    """
    try:
        return TrainingConfig(**settings)
    except SettingError as error:
        if recipe is None:
            raise
        raise SettingError(f"{error} The settings are from {str(recipe)!r} and the command line.") from error


def parse_with_recipe(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line with the values of its recipe as defaults."""
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    first, _ = parser.parse_known_args(arguments)
    for action in required:
        action.required = True
    if first.config is not None:
        apply_recipe(parser, first.config, first)
    return parser.parse_args(arguments)


def parse_arguments(arguments: Sequence[str] | None = None) -> TrainingConfig:
    """Parse the command line; return the settings.

    Raises:
        SettingError: see `parse_command`.
    """
    return parse_command(arguments).config
