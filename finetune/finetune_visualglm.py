"""Fine-tune VisualGLM on your own pictures, in one process or in many.

    python finetune/finetune_visualglm.py --use_lora --train-data dataset.json
    torchrun --nproc_per_node 2 finetune/finetune_visualglm.py --use_lora --zero-stage 1 --train-data dataset.json
    deepspeed finetune/finetune_visualglm.py --use_qlora --train-data dataset.json --resume

Every flag is explained by --help. The original's flags have their meanings.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started by its path, as launchers do
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from finetune.arguments import parse_arguments
from finetune.preparation import prepare
from finetune.processes import end_process, leave_processes
from model.errors import SettingError, VisualGLMError
from model.finetuned import FineTuneVisualGLMModel
from model.printing import print_text

__all__ = ["FineTuneVisualGLMModel", "main"]  # programs written for the original import the first from here

FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit codes; the last is the shells' for Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    try:
        training = prepare(parse_arguments(arguments))
        try:
            training.go()
        finally:
            training.close()
    except VisualGLMError as error:
        print_text(f"error: {error}", file=sys.stderr)
        return MISUSED if isinstance(error, SettingError) else FAILED
    except KeyboardInterrupt:
        print_text("Interrupted. Go on with the same command and --resume.", file=sys.stderr)
        return INTERRUPTED
    finally:
        leave_processes()
    return 0


if __name__ == "__main__":
    end_process(main())
