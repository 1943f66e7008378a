"""The command line of fine-tuning: the original's flags, with their original meanings, and additional ones."""

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


def add_model(group: Group) -> None:
    """Add the flags of the base model and the fine-tuning method."""
    add = group.add
    help_ = (
        "base model (default visualglm-6b; visualglm-tiny if there is neither a GPU nor the weights of visualglm-6b)"
    )
    add("--from_pretrained", metavar="NAME_OR_DIR", help=help_)
    add_method_flags(add, TrainingConfig.pre_seq_len)
    add("--full", action="store_true", help="full fine-tuning: train the model's weights")
    add("--freeze", nargs="+", choices=COMPONENTS, help="with --full: components that are not trained")


def add_data(group: Group) -> None:
    """Add the flags of the data."""
    add = group.add
    add(
        "--train-data",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help="training data: JSON lines or a JSON list",
    )
    add("--valid-data", nargs="*", type=Path, metavar="FILE", help="held-out data for the evaluation")
    help_ = "fraction of the training images to hold out for the evaluation (default %(default)s)"
    add("--valid-share", type=float, metavar="FRACTION", help=help_)
    help_ = "as in the original; --max-length defaults to the sum of the two"
    add("--max_source_length", type=int, metavar="N", help=help_)
    add("--max_target_length", type=int, metavar="N", help="see --max_source_length")
    help_ = f"maximum number of tokens of prompt and answer (default {TrainingConfig.max_length})"
    add("--max-length", type=int, default=None, help=help_)
    add("--on-bad-row", choices=get_args(OnBadRow), help="how to treat rows that cannot be used (default %(default)s)")
    help_ = (
        "augment with random crops, whose sides are at least this fraction of the image's (default %(default)s: none)"
    )
    add("--crop", type=float, metavar="FRACTION", help=help_)
    add("--flip", action=argparse.BooleanOptionalAction, help="augment by mirroring half of the images")
    help_ = "reduce forgetting: add N answers of the base model, with a KL loss to its token distribution"
    help_ += "; with --full, whose base model is not kept, with a cross-entropy loss on its answers"
    add("--rehearsal", "--remember", type=int, metavar="N", help=help_)
    help_ = "loss weight of a rehearsal token (default %(default)s)"
    add("--rehearsal-weight", "--remember-weight", type=float, metavar="W", help=help_)
    add("--num-workers", type=int, metavar="N", help="worker processes that load data (default %(default)s)")
    add("--group-by-length", action="store_true", help="batch examples of similar length")


def add_training(group: Group) -> None:
    """Add the flags of the optimization."""
    add = group.add
    add("--train-iters", type=int, metavar="N", help="number of optimizer steps; overrides --epochs")
    add("--epochs", type=int, metavar="N", help="passes over the data (default %(default)s)")
    add("--batch-size", type=int, metavar="N", help="examples per device and forward pass (default %(default)s)")
    help_ = "batches per optimizer step (default %(default)s)"
    add("--gradient-accumulation-steps", type=int, metavar="N", help=help_)
    add(
        "--lr",
        type=float,
        default=None,
        help=f"learning rate (default {DEFAULT_LEARNING_RATE}; {PTUNING_LEARNING_RATE} for P-tuning)",
    )
    add("--lr-decay-style", choices=get_args(DecayStyle), help="learning-rate schedule (default %(default)s)")
    add("--lr-decay-iters", type=int, metavar="N", help="step at which the decay ends (default: the last)")
    help_ = "final learning rate as a fraction of --lr (default %(default)s)"
    add("--lr-decay-ratio", type=float, metavar="FRACTION", help=help_)
    help_ = "fraction of the steps in which the learning rate rises linearly (default %(default)s)"
    add("--warmup", type=float, metavar="FRACTION", help=help_)
    add("--weight-decay", type=float, help="AdamW's weight decay (default %(default)s)")
    add("--clip-grad", type=float, help="maximum gradient norm; 0 disables clipping (default %(default)s)")
    add("--seed", type=int, help="random seed (default %(default)s)")


def add_memory(group: Group) -> None:
    """Add the flags of precision and memory."""
    add = group.add
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--fp16", action="store_true", help="train in float16 (on a CPU: float32)")
    add("--bf16", action="store_true", help="train in bfloat16")
    help_ = "save memory: keep only the layers' inputs, and recompute the layers in the backward pass"
    add("--checkpoint-activations", action="store_true", help=help_)
    add("--zero-stage", type=int, choices=(0, 1, 2, 3), help="stage of deepspeed's ZeRO (default %(default)s)")
    add("--offload", action="store_true", help="keep the optimizer state in host memory; needs deepspeed")
    help_ = "size of the cache of image embeddings in host memory (default %(default)s)"
    add("--cache-images", "--cache-pictures", type=float, metavar="GB", help=help_)


def add_evaluation(group: Group) -> None:
    """Add the flags of the evaluation."""
    add = group.add
    add("--eval-interval", type=int, metavar="N", help="steps between evaluations (default: once per epoch)")
    add("--eval-batch-size", type=int, metavar="N", help="batch size of the evaluation (default: --batch-size)")
    add("--eval-answers", type=int, metavar="N", help="held-out questions to answer (default %(default)s)")
    add("--early-stop", type=int, metavar="N", help="stop after N evaluations without a lower loss")
    add("--log-interval", type=int, metavar="N", help="steps between log records (default %(default)s)")
    add("--summary-dir", type=Path, metavar="DIR", help="directory of TensorBoard's files (default: the run's)")
    add("--wandb", action="store_true", help="also log to Weights & Biases")
    add("--wandb-project-name", metavar="NAME", help="project in Weights & Biases (default %(default)s)")


def add_saving(group: Group) -> None:
    """Add the flags of runs and checkpoints."""
    add = group.add
    add("--save", type=Path, metavar="DIR", help="directory of the runs (default %(default)s)")
    add("--experiment-name", metavar="NAME", help="prefix of the run's name (default %(default)s)")
    add("--save-interval", type=int, metavar="N", help="steps between checkpoints (default: once per epoch)")
    add("--keep", type=int, metavar="N", help="number of newest checkpoints to keep (default %(default)s)")
    add("--save-full", action="store_true", help="save all weights, not only the trained ones")
    add("--resume", nargs="?", const="", metavar="RUN", help="resume this run; without RUN the newest")
    help_ = "with --resume: continue although the training data has changed"
    add("--allow-changed-data", action="store_true", help=help_)


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
