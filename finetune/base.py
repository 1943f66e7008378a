"""Which model to begin from where none is named: the published one, or the small one on a machine without means for it.

python -m finetune.base [--from_pretrained NAME ...]      # prints its name, for the scripts
"""

import sys
from collections.abc import Sequence

import torch

from model.checkpoint.resolve import DEFAULT_MODEL, HUB_IDS, find_in_cache, is_model, local_places
from model.command_line import ArgumentParser, run_program
from model.printing import print_text

SMALL_MODEL = "visualglm-tiny"


def choose_base() -> tuple[str, str]:
    """Return the name of the model to begin from, and what is to be said about it, if anything."""
    has_weights = any(map(is_model, local_places(DEFAULT_MODEL, None))) or find_in_cache(HUB_IDS[DEFAULT_MODEL])
    if torch.cuda.is_available() or has_weights:
        return DEFAULT_MODEL, ""
    notice = f"There is no GPU here and no {DEFAULT_MODEL}: {SMALL_MODEL}, the small model, is trained instead."
    return SMALL_MODEL, notice


def run(arguments: Sequence[str] | None = None) -> None:
    """Print the name that --from_pretrained gives among the arguments, or the one chosen."""
    parser = ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--from_pretrained")
    given, _ = parser.parse_known_args(arguments)
    name, notice = (given.from_pretrained, "") if given.from_pretrained else choose_base()
    if notice:
        print_text(notice, file=sys.stderr)
    print_text(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_program(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
