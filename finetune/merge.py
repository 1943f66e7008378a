"""Merge a fine-tuning run with its base model, or convert its LoRA from SAT to PEFT and back.

    python -m finetune.merge RUN --out DIR --to hf          a complete model in the Hugging Face format
    python -m finetune.merge RUN --out DIR --to sat         a complete model in the SAT format
    python -m finetune.merge RUN --out DIR --to peft        the LoRA of RUN as a PEFT adapter
    python -m finetune.merge ADAPTER --out RUN --to run --base visualglm-6b      a PEFT adapter as a run

RUN is the directory of a run or of one of its checkpoints; it may be one of the original's program.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import open_checkpoint
from model.checkpoint.adapters import BASE_KEY
from model.checkpoint.convert import convert
from model.checkpoint.files import write_tensors
from model.checkpoint.layout import SPLIT
from model.checkpoint.load import convert_adapter, open_adapter, open_base
from model.checkpoint.peft_adapter import CONFIG_NAME as ADAPTER_NAME, write_peft
from model.checkpoint.resolve import is_adapter, read_base_name
from model.checkpoint.sat import CONFIG_NAME, LATEST_NAME, WEIGHTS_NAME
from model.checkpoint.save import new_directory, write_json
from model.command_line import ArgumentParser, print_text, run_program
from model.errors import CheckpointError

FORMATS = ("sat", "hf", "peft", "run")
FIRST_STEP = "1"


def merge(source: str, destination: Path, to: str, base: str | None = None) -> None:
    """Merge or convert `source` into a new directory.

    Args:
        source: a run, or for `to="run"` the directory of a PEFT adapter.
        destination: the new directory.
        to: sat, hf, peft or run.
        base: the base model of `source`; None for the one that `source` names.

    Raises:
        VisualGLMError: something cannot be read, merged or written.
    """
    if to == "run":
        write_run(Path(source), destination, base)
    elif to == "peft":
        checkpoint = open_checkpoint(source, base=base)
        with new_directory(destination, 0) as partial:
            name = base or read_base_name(checkpoint.path) or ""
            write_peft(partial, checkpoint.split_qkv(), checkpoint.config, name)
    else:
        convert(source, destination, to, merge_lora=True, base=base)


def write_run(adapter: Path, destination: Path, base: str | None) -> None:
    """Convert a PEFT adapter into a run, which can be trained further.

    Raises:
        CheckpointError: `adapter` is no adapter, or cannot be converted.
    """
    if not is_adapter(adapter):
        raise CheckpointError(f"{adapter} is not the directory of a PEFT adapter: it has no {ADAPTER_NAME}.")
    name = base or read_base_name(adapter)
    run = convert_adapter(open_adapter(adapter), open_base(name, [adapter], None))
    with new_directory(destination, 0) as partial:
        (partial / FIRST_STEP).mkdir()
        write_tensors(partial / FIRST_STEP / WEIGHTS_NAME, dict(run.stored_tensors))
        (partial / LATEST_NAME).write_text(FIRST_STEP, encoding="utf-8")
        write_json(partial / CONFIG_NAME, {**run.config, "qkv_layout": SPLIT, BASE_KEY: name})


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m finetune.merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="RUN", help="directory of a run, or with --to run of a PEFT adapter")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to create")
    parser.add_argument("--to", choices=FORMATS, required=True, help="output format")
    parser.add_argument("--base", metavar="NAME", help="base model (default: the one that RUN names)")
    return vars(parser.parse_args(arguments))


def run(source: str, out: Path, to: str, base: str | None) -> None:
    """Merge or convert `source` into `out`, and print the path of the result; see `merge`."""
    merge(source, out, to, base)
    print_text(f"Written to {out}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_program(lambda: run(**parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
