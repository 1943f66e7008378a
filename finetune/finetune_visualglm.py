"""Fine-tune VisualGLM on your own images, in one or several processes.

    python finetune/finetune_visualglm.py --use_lora --train-data dataset.json
    torchrun --nproc_per_node 2 finetune/finetune_visualglm.py --use_lora --zero-stage 1 --train-data dataset.json
    deepspeed finetune/finetune_visualglm.py --use_qlora --train-data dataset.json --resume
    python finetune/finetune_visualglm.py --config recipe.yaml

--help explains all flags. The original's flags have their original meanings.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file, as launchers do
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from finetune.arguments import TrainingCommand, parse_command
from finetune.config import TrainingConfig
from finetune.distributed import close_distributed, exit_process, is_first_process
from finetune.preparation import prepare
from finetune.seeds import train_seeds
from finetune.stopping import SIGNAL_EXIT_BASE
from finetune.trainer import Trainer
from model.command_line import SUCCESS, print_text, run_program
from model.finetuned import FineTuneVisualGLMModel

__all__ = ["FineTuneVisualGLMModel", "main"]  # programs written for the original import the former from here


INTERRUPTED_EARLY = "Interrupted before the first step: nothing was saved."


def run(config: TrainingConfig) -> int:
    """Train; return the exit code."""
    return train(prepare(config))


def train(training: Trainer) -> int:
    """Run a prepared training; return the exit code."""
    try:
        was_stopped = training.train()
    finally:
        training.close()
    return SIGNAL_EXIT_BASE + (training.stop_request.signal or signal.SIGTERM) if was_stopped else SUCCESS


def run_command(command: TrainingCommand) -> int:
    """Train, once or with each seed, or print the recipe; return the exit code."""
    if command.prints_recipe:
        if is_first_process():
            print_text(command.recipe, end="")
        return SUCCESS
    return train_seeds(command.config, command.seeds, run) if command.seeds else run(command.config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        return run_program(lambda: run_command(parse_command(arguments)), interrupted=INTERRUPTED_EARLY)
    finally:
        close_distributed()


if __name__ == "__main__":
    exit_process(main())
