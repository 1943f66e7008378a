"""The command line of fine-tuning: the original's flags with their meanings, and ours."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.command_line import ArgumentParser
from model.errors import SettingError
from model.sat.lora import LLM, TARGETS

from .encoding import DEFAULT_MAX_LENGTH

METHODS = ("use_lora", "use_qlora", "use_ptuning", "full")
PARTS = ("vit", "qformer", "proj", "llm")
DECAYS = ("constant", "linear", "cosine", "exponential")
# Rates where none is given. Keys and values have a long way from near nothing; ChatGLM-6B's own P-tuning takes as much.
RATE, PREFIX_RATE = 1e-4, 2e-2
EPOCHS = 10  # where neither epochs nor iterations are given
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
    ignored = Group(parser, "of the original, read and without effect here")
    for flag, count in WITHOUT_EFFECT.items():
        ignored.add(flag, nargs="?" if count else 0, action=None if count else Ignored, help=argparse.SUPPRESS)
    return parser


class Ignored(argparse.Action):
    """A flag that does nothing."""

    def __call__(self, *_: Any) -> None:
        pass


class Group:
    """A group of flags."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self.group = parser.add_argument_group(title)

    def add(self, flag: str, **options: Any) -> None:
        given = {name: value for name, value in options.items() if not (name == "action" and value is None)}
        self.group.add_argument(flag, **given)


def add_model(group: Group) -> None:
    """Add the flags that choose the model and what of it is trained."""
    add = group.add
    help_ = "the model to begin from (default visualglm-6b; visualglm-tiny with neither its weights nor a GPU)"
    add("--from_pretrained", metavar="NAME_OR_DIR", help=help_)
    add("--use_lora", action="store_true", help="train LoRA")
    add("--use_qlora", action="store_true", help="train LoRA beside language weights of 4 bits")
    add("--use_ptuning", action="store_true", help="train P-tuning v2")
    add("--full", action="store_true", help="train the weights themselves")
    add("--freeze", nargs="+", choices=PARTS, default=[], help="with --full: parts that are not trained")
    add("--lora_rank", type=int, default=10, help="rank of LoRA's matrices (default %(default)s)")
    add("--lora_alpha", type=float, default=1.0, help="scale of LoRA, divided by the rank (default %(default)s)")
    add("--lora_dropout", type=float, default=0.0, help="share of the inputs hidden from LoRA (default %(default)s)")
    add("--layer_range", nargs="+", type=int, metavar="N", help="numbers of the layers to adapt, no range; default all")
    names = f"{', '.join(TARGETS)}, or patterns of layers' names (default llm)"
    add("--lora_targets", nargs="+", default=[LLM], metavar="TARGET", help=f"layers to adapt: {names}")
    add("--pre_seq_len", type=int, default=128, help="P-tuning: keys and values in a layer (default %(default)s)")


def add_data(group: Group) -> None:
    """Add the flags of the data."""
    add = group.add
    add("--train-data", nargs="+", required=True, type=Path, metavar="FILE", help="JSON or JSON lines")
    add("--valid-data", nargs="*", default=[], type=Path, metavar="FILE", help="held-out data, for the evaluation")
    help_ = "hold back this share of the training data's pictures for the evaluation (default %(default)s)"
    add("--valid-share", type=float, default=0.0, metavar="SHARE", help=help_)
    add("--max_source_length", type=int, help="with the next one: the most tokens of prompt and answer together")
    add("--max_target_length", type=int, help="as in the original")
    add("--max-length", type=int, help=f"the most tokens of prompt and answer (default {DEFAULT_MAX_LENGTH})")
    add("--on-bad-row", choices=("error", "skip"), default="error", help="what to do about rows that cannot be used")
    add(
        "--crop",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="see random parts of pictures, at least so much of a side",
    )
    add("--flip", action=argparse.BooleanOptionalAction, default=False, help="see half of the pictures mirrored")
    help_ = "hold the training to what the base would say to N other questions, token by token, so that it forgets less"
    help_ += "; with --full, whose base is gone, its answers are learned as they were said"
    add("--remember", type=int, default=0, metavar="N", help=help_)
    help_ = "what a token of these counts (default %(default)s)"
    add("--remember-weight", type=float, default=1.0, metavar="W", help=help_)
    add("--num-workers", type=int, default=1, metavar="N", help="processes that read data (default %(default)s)")
    add("--group-by-length", action="store_true", help="put examples of like length into one batch")


def add_training(group: Group) -> None:
    """Add the flags of the optimisation."""
    add = group.add
    add("--train-iters", type=int, metavar="N", help="optimiser steps; wins over --epochs")
    add("--epochs", type=int, metavar="N", help=f"times through the data (default {EPOCHS})")
    add("--batch-size", type=int, default=4, help="examples at a time on each device (default %(default)s)")
    add("--gradient-accumulation-steps", type=int, default=1, help="batches to an optimiser step (default %(default)s)")
    add("--lr", type=float, help=f"learning rate (default {RATE}; {PREFIX_RATE} for P-tuning)")
    add("--lr-decay-style", choices=DECAYS, default="cosine", help="(default %(default)s)")
    add("--lr-decay-iters", type=int, metavar="N", help="steps until the rate has decayed; default all")
    add("--lr-decay-ratio", type=float, default=0.1, help="share of the rate that is left then (default %(default)s)")
    add("--warmup", type=float, default=0.02, help="share of the steps in which the rate rises (default %(default)s)")
    add("--weight-decay", type=float, default=0.01, help="(default %(default)s)")
    add("--clip-grad", type=float, default=1.0, help="longest gradient; 0 for any (default %(default)s)")
    add("--seed", type=int, default=1234, help="(default %(default)s)")


def add_memory(group: Group) -> None:
    """Add the flags of precision and memory."""
    add = group.add
    add("--device", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    add("--fp16", action="store_true", help="float16 on a GPU")
    add("--bf16", action="store_true", help="bfloat16")
    add("--checkpoint-activations", action="store_true", help="less memory: compute whole layers twice")
    add("--zero-stage", type=int, choices=(0, 1, 2, 3), default=0, help="deepspeed's ZeRO (default %(default)s)")
    add("--offload", action="store_true", help="keep the optimiser in the host's memory; needs deepspeed")
    add("--cache-pictures", type=float, default=2.0, metavar="GB", help="of embeddings kept (default %(default)s)")


def add_evaluation(group: Group) -> None:
    """Add the flags of the evaluation."""
    add = group.add
    add("--eval-interval", type=int, metavar="N", help="steps between evaluations; default once an epoch")
    add("--eval-batch-size", type=int, metavar="N", help="default that of training")
    add("--eval-answers", type=int, default=40, metavar="N", help="held-out questions to answer (default %(default)s)")
    add("--early-stop", type=int, default=0, metavar="N", help="stop after N evaluations without a lower loss")
    add("--log-interval", type=int, default=10, metavar="N", help="steps between records (default %(default)s)")
    add("--summary-dir", type=Path, help="of TensorBoard (default: in the run)")
    add("--wandb", action="store_true", help="record to Weights & Biases, too")
    add("--wandb-project-name", default="visualglm", help="(default %(default)s)")


def add_saving(group: Group) -> None:
    """Add the flags of what is saved."""
    add = group.add
    add("--save", type=Path, default=Path("checkpoints"), metavar="DIR", help="of the runs (default %(default)s)")
    add("--experiment-name", default="finetune-visualglm", help="first part of the run's name (default %(default)s)")
    add("--save-interval", type=int, metavar="N", help="steps between checkpoints; default once an epoch")
    add("--keep", type=int, default=3, metavar="N", help="newest checkpoints that are kept (default %(default)s)")
    add("--save-full", action="store_true", help="save all weights, not only what was trained")
    add("--resume", nargs="?", const="", metavar="RUN", help="go on with this run; without a name, with the newest")
    add("--allow-changed-data", action="store_true", help="with --resume: go on although the training data has changed")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SettingError: flags that do not go together, or a number that makes no sense.
    """
    options = make_parser().parse_args(arguments)
    if options.lr is None:
        options.lr = PREFIX_RATE if options.use_ptuning else RATE
    check(options)
    if options.max_length is None:
        halves = (options.max_source_length, options.max_target_length)
        options.max_length = sum(halves) if None not in halves else DEFAULT_MAX_LENGTH
    options.eval_batch_size = options.eval_batch_size or options.batch_size
    if options.train_iters is None and options.epochs is None:
        options.epochs = EPOCHS
    return options


def check(options: argparse.Namespace) -> None:
    """Raise SettingError for what makes no sense."""
    chosen = [method for method in METHODS if getattr(options, method)]
    if len(chosen) != 1:
        given = f"{' and '.join(f'--{method}' for method in chosen)} are given" if chosen else "none is given"
        raise SettingError(f"Choose one of {', '.join(f'--{method}' for method in METHODS)}; {given}.")
    if options.fp16 and options.bf16:
        raise SettingError("--fp16 and --bf16 are given. Choose one; bf16 where the GPU knows it.")
    if options.freeze and not options.full:
        raise SettingError("--freeze goes with --full: the other methods freeze the whole model anyway.")
    if options.use_qlora and options.save_full:
        raise SettingError(
            "--save-full does not go with --use_qlora, whose weights of 4 bits are the base's. Make a whole model "
            "afterwards: python -m finetune.merge"
        )
    counts = ("lora_rank", "pre_seq_len", "batch_size", "gradient_accumulation_steps", "keep", "log_interval")
    optional = ("train_iters", "epochs", "save_interval", "eval_interval", "eval_batch_size", "max_length")
    for name in (*counts, *optional):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SettingError(f"--{name.replace('_', '-')} is {value}; it should be at least 1.")
    name = options.experiment_name
    if not name or not name.isprintable() or Path(name).name != name or "\\" in name or name == "..":
        raise SettingError(
            f"--experiment-name is {name!r}; it should be a plain name, the first part of the name of a directory in "
            "--save. Choose another directory with --save."
        )
    if options.num_workers < 0:
        raise SettingError(f"--num-workers is {options.num_workers}; it should be at least 0.")
    if not 0 < options.crop <= 1:
        raise SettingError(f"--crop is {options.crop}; it should be above 0 and at most 1, which is the whole picture.")
    if not 0 <= options.valid_share < 1:
        raise SettingError(f"--valid-share is {options.valid_share}; it should be at least 0 and below 1, as 0.1.")
    if options.lr <= 0:
        raise SettingError(f"--lr is {options.lr}; it should be above 0.")
