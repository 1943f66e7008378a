"""The command line of fine-tuning: the original's flags with their meanings, and ours."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from model.command_line import ArgumentParser
from model.finetuned import add_method_flags

from .config import (
    COMPONENTS,
    DEFAULT_EPOCHS,
    DEFAULT_LEARNING_RATE,
    METHODS,
    PTUNING_LEARNING_RATE,
    DecayStyle,
    TrainingConfig,
)
from .rows import OnBadRow

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

# Flags of the original that ask for nothing that this program does not do anyway.
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
    """Return the parser."""
    parser = ArgumentParser(prog="finetune_visualglm.py", description="Fine-tune VisualGLM.")
    add_model(Group(parser, "model and method"))
    add_data(Group(parser, "data"))
    add_training(Group(parser, "training"))
    add_memory(Group(parser, "precision and memory"))
    add_evaluation(Group(parser, "evaluation"))
    add_saving(Group(parser, "saving"))
    ignored = parser.add_argument_group("of the original, read and without effect here")
    for flag, count in WITHOUT_EFFECT.items():
        kind: dict[str, Any] = {"nargs": "?"} if count else {"nargs": 0, "action": Ignored}
        ignored.add_argument(flag, help=argparse.SUPPRESS, **kind)
    return parser


class Ignored(argparse.Action):
    """A flag that does nothing."""

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
            former: earlier names of the flag, which go on working.
            options: see argparse's `add_argument`.
        """
        name = flag.lstrip("-").replace("-", "_")
        options.setdefault("default", getattr(TrainingConfig, name, None))
        self.group.add_argument(flag, *former, **options)


def add_model(group: Group) -> None:
    """Add the flags that choose the model and what of it is trained."""
    add = group.add
    help_ = "the model to begin from (default visualglm-6b; visualglm-tiny with neither its weights nor a GPU)"
    add("--from_pretrained", metavar="NAME_OR_DIR", help=help_)
    add_method_flags(add, TrainingConfig.pre_seq_len)
    add("--full", action="store_true", help="train the weights themselves")
    add("--freeze", nargs="+", choices=COMPONENTS, help="with --full: parts that are not trained")


def add_data(group: Group) -> None:
    """Add the flags of the data."""
    add = group.add
    add("--train-data", nargs="+", required=True, type=Path, metavar="FILE", help="JSON or JSON lines")
    add("--valid-data", nargs="*", type=Path, metavar="FILE", help="held-out data, for the evaluation")
    help_ = "hold back this share of the training data's pictures for the evaluation (default %(default)s)"
    add("--valid-share", type=float, metavar="SHARE", help=help_)
    add("--max_source_length", type=int, help="with the next one: the most tokens of prompt and answer together")
    add("--max_target_length", type=int, help="as in the original")
    help_ = f"the most tokens of prompt and answer (default {TrainingConfig.max_length})"
    add("--max-length", type=int, default=None, help=help_)
    add("--on-bad-row", choices=get_args(OnBadRow), help="what to do about rows that cannot be used")
    add("--crop", type=float, metavar="SHARE", help="see random parts of pictures, at least so much of a side")
    add("--flip", action=argparse.BooleanOptionalAction, help="see half of the pictures mirrored")
    help_ = "reduce forgetting: add N answers of the base model, with a KL loss to its token distribution"
    help_ += "; with --full, whose base model is not kept, with a cross-entropy loss on its answers"
    add("--rehearsal", "--remember", type=int, metavar="N", help=help_)
    help_ = "loss weight of a rehearsal token (default %(default)s)"
    add("--rehearsal-weight", "--remember-weight", type=float, metavar="W", help=help_)
    add("--num-workers", type=int, metavar="N", help="processes that read data (default %(default)s)")
    add("--group-by-length", action="store_true", help="put examples of like length into one batch")


def add_training(group: Group) -> None:
    """Add the flags of the optimization."""
    add = group.add
    add("--train-iters", type=int, metavar="N", help="optimizer steps; wins over --epochs")
    add("--epochs", type=int, metavar="N", help="times through the data (default %(default)s)")
    add("--batch-size", type=int, help="examples at a time on each device (default %(default)s)")
    add("--gradient-accumulation-steps", type=int, help="batches to an optimizer step (default %(default)s)")
    add(
        "--lr",
        type=float,
        default=None,
        help=f"learning rate (default {DEFAULT_LEARNING_RATE}; {PTUNING_LEARNING_RATE} for P-tuning)",
    )
    add("--lr-decay-style", choices=get_args(DecayStyle), help="(default %(default)s)")
    add("--lr-decay-iters", type=int, metavar="N", help="steps until the rate has decayed; default all")
    add("--lr-decay-ratio", type=float, help="share of the rate that is left then (default %(default)s)")
    add("--warmup", type=float, help="share of the steps in which the rate rises (default %(default)s)")
    add("--weight-decay", type=float, help="(default %(default)s)")
    add("--clip-grad", type=float, help="longest gradient; 0 for any (default %(default)s)")
    add("--seed", type=int, help="(default %(default)s)")


def add_memory(group: Group) -> None:
    """Add the flags of precision and memory."""
    add = group.add
    add("--device", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    add("--fp16", action="store_true", help="float16 on a GPU")
    add("--bf16", action="store_true", help="bfloat16")
    add("--checkpoint-activations", action="store_true", help="less memory: compute whole layers twice")
    add("--zero-stage", type=int, choices=(0, 1, 2, 3), help="deepspeed's ZeRO (default %(default)s)")
    add("--offload", action="store_true", help="keep the optimizer in the host's memory; needs deepspeed")
    add("--cache-images", "--cache-pictures", type=float, metavar="GB", help="of embeddings kept (default %(default)s)")


def add_evaluation(group: Group) -> None:
    """Add the flags of the evaluation."""
    add = group.add
    add("--eval-interval", type=int, metavar="N", help="steps between evaluations; default once an epoch")
    add("--eval-batch-size", type=int, metavar="N", help="default that of training")
    add("--eval-answers", type=int, metavar="N", help="held-out questions to answer (default %(default)s)")
    add("--early-stop", type=int, metavar="N", help="stop after N evaluations without a lower loss")
    add("--log-interval", type=int, metavar="N", help="steps between records (default %(default)s)")
    add("--summary-dir", type=Path, help="of TensorBoard (default: in the run)")
    add("--wandb", action="store_true", help="record to Weights & Biases, too")
    add("--wandb-project-name", help="(default %(default)s)")


def add_saving(group: Group) -> None:
    """Add the flags of what is saved."""
    add = group.add
    add("--save", type=Path, metavar="DIR", help="of the runs (default %(default)s)")
    add("--experiment-name", help="first part of the run's name (default %(default)s)")
    add("--save-interval", type=int, metavar="N", help="steps between checkpoints; default once an epoch")
    add("--keep", type=int, metavar="N", help="newest checkpoints that are kept (default %(default)s)")
    add("--save-full", action="store_true", help="save all weights, not only what was trained")
    add("--resume", nargs="?", const="", metavar="RUN", help="go on with this run; without a name, with the newest")
    add("--allow-changed-data", action="store_true", help="with --resume: go on although the training data has changed")


def parse_arguments(arguments: Sequence[str] | None = None) -> TrainingConfig:
    """Read the command line.

    Raises:
        SettingError: flags that do not go together, or a number that makes no sense.
    """
    given = vars(make_parser().parse_args(arguments))
    if given["lr"] is None:
        given["lr"] = PTUNING_LEARNING_RATE if given["use_ptuning"] else DEFAULT_LEARNING_RATE
    if given["max_length"] is None:
        halves = (given["max_source_length"], given["max_target_length"])
        given["max_length"] = sum(halves) if None not in halves else TrainingConfig.max_length
    return TrainingConfig(**{field.name: given[field.name] for field in fields(TrainingConfig)})
