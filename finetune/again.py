"""Train a run once more with its recorded settings, and compare the weights: bit-equal on a CPU.

visualglm again checkpoints/RUN

A run of several processes needs as many: torchrun --nproc_per_node 2 -m finetune.again checkpoints/RUN
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any

import torch

from model.command_line import SUCCESS, ArgumentParser, print_text, run_program
from model.errors import SettingError

from .config import TrainingConfig
from .differences import Differences, compare_weights, find_differences
from .distributed import close_distributed, exit_process, is_first_process, read_world_size
from .errors import TrainingError
from .finetune_visualglm import INTERRUPTED_EARLY, train
from .preparation import prepare
from .recipe import from_plain
from .record import RECORD_NAME, last_session, read_record


def recorded_config(record: Mapping[str, Any], save: Path | None) -> TrainingConfig:
    """Return the settings of a record, for a new run.

    Args:
        save: directory of the new run; None for the recorded one.

    Raises:
        SettingError: a setting is unknown or invalid.
    """
    changes = {name: value for name, value in last_session(record)["changes"].items() if name not in ("data", "base")}
    settings = from_plain({**record["settings"], **changes})
    settings |= {"resume": None, "allow_changed_data": False, "from_pretrained": record["base"]["name"]}
    if save is not None:
        settings["save"] = save
    return TrainingConfig(**settings)


def check_repeatable(record: Mapping[str, Any], run: Path) -> None:
    """Raise an error if a training cannot be repeated from its record with these processes.

    Raises:
        TrainingError: the record lacks the beginning of the run.
        SettingError: the number of processes is another one.
    """
    if record["sessions"][0]["first_step"]:
        raise TrainingError(
            f"{str(run / RECORD_NAME)!r} begins at step {record['sessions'][0]['first_step']}: an earlier version "
            "started the run, so its first settings are unknown. Train with the original command."
        )
    count = last_session(record)["processes"]
    if count != read_world_size():
        raise SettingError(
            f"{run} was trained by {count} processes, not {read_world_size()}. Start as many: "
            f"torchrun --nproc_per_node {count} -m finetune.again {run}"
        )


def report_differences(differences: Differences, allows_changed_data: bool) -> None:
    """Print what differs.

    Raises:
        TrainingError: the data or the base model has changed, and this is not allowed.
    """
    if differences.sources and not allows_changed_data:
        raise TrainingError(
            f"The data or the base model has changed since the run: {'; '.join(differences.sources)}. Restore it, or "
            "train with what is there now by --allow-changed-data; the result will differ."
        )
    for text in differences.sources:
        print_text(f"Changed since the run: {text}.", file=sys.stderr)
    for text in differences.others:
        print_text(f"Different now, so that the result may differ: {text}.", file=sys.stderr)


def describe_sessions(record: Mapping[str, Any]) -> str:
    """Return a message about settings that changed when the run was resumed."""
    changed = {name for session in record["sessions"] for name in session["changes"]}
    if not changed:
        return f"Training {record['base']['name']} again with the settings of the run."
    return (
        f"The run was resumed with other settings ({', '.join(sorted(changed))}): the new run has the last ones from "
        "its start, so that the result will differ."
    )


def find_record(run: Path) -> Path:
    """Return the directory of a run, which may be given by one of its checkpoints."""
    has_none = not (run / RECORD_NAME).is_file()
    return run.parent if has_none and (run.parent / RECORD_NAME).is_file() else run


def repeat(run: Path, save: Path | None, allow_changed_data: bool) -> int:
    """Train a run once more; return the exit code.

    Raises:
        VisualGLMError: the run has no record, the data or the base model has changed, or the training fails.
    """
    run = find_record(run.absolute())
    record = read_record(run)
    check_repeatable(record, run)
    directory = Path(last_session(record)["directory"])
    # Relative paths, also those of images in the data, belong to the directory in which the run was trained.
    with chdir(directory) if directory.is_dir() else nullcontext():
        config = recorded_config(record, save)
        if is_first_process():
            report_differences(find_differences(record, config, run), allow_changed_data)
            print_text(describe_sessions(record), file=sys.stderr)
        return train_again(record, config, run)


def train_again(record: Mapping[str, Any], config: TrainingConfig, run: Path) -> int:
    """Train with recorded settings, and print how the weights differ; return the exit code."""
    machine = last_session(record)["machine"]
    if machine["device"] == "cpu":  # sums depend on how threads divide the work
        torch.set_num_threads(machine["threads"])
    training = prepare(config)
    if training.record is not None:
        training.record.content["repeats"] = str(run)
    status = train(training)
    if status == SUCCESS and is_first_process():
        print_text(compare_weights(run, training.run.path), file=sys.stderr)
    return status


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m finetune.again", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run, which has a record.json")
    help_ = "directory of the new run (default: that of RUN)"
    parser.add_argument("--save", type=lambda path: Path(path).absolute(), metavar="DIR", help=help_)
    parser.add_argument(
        "--allow-changed-data", action="store_true", help="train although the data or the base model has changed"
    )
    return vars(parser.parse_args(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    try:
        return run_program(lambda: repeat(**parse_arguments(arguments)), interrupted=INTERRUPTED_EARLY)
    finally:
        close_distributed()


if __name__ == "__main__":
    exit_process(main())
