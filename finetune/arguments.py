"""The command line of fine-tuning: the original's flags, with their original meanings, and additional ones."""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model.command_line import ArgumentParser
from model.finetuned import add_method_flags

from .config import (
    COMPONENTS,
    DEFAULT_EPOCHS,
    DEFAULT_LEARNING_RATE,
    METHODS,
    PTUNING_LEARNING_RATE,
    TrainingConfig,
)

__all__ = [
    "COMPONENTS",
    "DEFAULT_EPOCHS",
    "DEFAULT_LEARNING_RATE",
    "METHODS",
    "PTUNING_LEARNING_RATE",
    "TrainingConfig",
    "make_parser",
    "parse_arguments",
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
        return {"action": "store_true"}
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


def parse_arguments(arguments: Sequence[str] | None = None) -> TrainingConfig:
    """Parse the command line.

    Raises:
        SettingError: flags contradict each other, or a number is out of range.
    """
    given = vars(make_parser().parse_args(arguments))
    if given["lr"] is None:
        given["lr"] = PTUNING_LEARNING_RATE if given["use_ptuning"] else DEFAULT_LEARNING_RATE
    if given["max_length"] is None:
        lengths = (given["max_source_length"], given["max_target_length"])
        given["max_length"] = sum(lengths) if None not in lengths else TrainingConfig.max_length
    return TrainingConfig(**{field.name: given[field.name] for field in fields(TrainingConfig)})
