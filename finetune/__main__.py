"""Fine-tune a model: python -m finetune ..., which is `visualglm finetune`."""

from typing import NoReturn

from finetune import finetune_visualglm
from finetune.distributed import exit_process


def main() -> NoReturn:
    """Run the command line, and exit the process."""
    exit_process(finetune_visualglm.main())


if __name__ == "__main__":
    main()
