"""Train with several seeds, one run after another, and summarize their numbers: mean and 95 % interval.

The runs are in one directory and named after their seeds. A run whose record says that it is complete, with the same
settings, data and base model, is not repeated; one that was interrupted is resumed.
"""

import gc
import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from model.command_line import SUCCESS, print_text
from model.errors import SettingError
from model.file_writing import write_text_atomically
from model.seeds import SeedSummary, summarize_seeds

from .checkpoints import Run
from .config import TrainingConfig
from .distributed import DistributedContext, init_distributed, print_main
from .errors import TrainingError
from .methods import choose_base, open_base
from .preparation import wants_deepspeed
from .recipe import plain_settings
from .record import Sources, comparable, compared_settings, describe_sources, read_earlier
from .seed_table import format_table, to_json

Train = Callable[[TrainingConfig], int]


@dataclass(frozen=True)
class Planned:
    """The next action for a seed.

    Attributes:
        action: train a new run, resume one, or nothing, as it is complete.
        run: the directory of the run to resume or of the complete one.
    """

    action: Literal["train", "resume", "done"]
    run: Path | None = None


def train_seeds(config: TrainingConfig, seeds: Sequence[int], train: Train) -> int:
    """Train with each seed, then print and write the summary of their numbers; return the exit code.

    Args:
        train: trains with settings, and returns the exit code. Any other than 0 ends the work; the same command
            continues it.

    Raises:
        SettingError: a seed is given twice, or `config` resumes a run.
        VisualGLMError: a training fails.
    """
    check_seeds(config, seeds)
    distributed = init_distributed(config.device, wants_nccl=wants_deepspeed(config))
    sources = open_sources(config) if distributed.is_main_process else None
    for number, seed in enumerate(seeds, start=1):
        each = settings_of_seed(config, seed)
        planned = distributed.broadcast(plan(each, sources, distributed) if sources is not None else None)
        print_main(distributed, f"Seed {seed}, {number} of {len(seeds)}: {describe_plan(planned)}")
        if planned.action == "done":
            continue
        status = train(replace(each, resume=str(planned.run) if planned.action == "resume" else None))
        if status != SUCCESS:
            return status
        gc.collect()  # the network of the former seed, before the next one is loaded
        if distributed.device.type == "cuda":
            torch.cuda.empty_cache()
    if sources is not None:
        summarize(config, seeds, sources, distributed)
    return SUCCESS


def check_seeds(config: TrainingConfig, seeds: Sequence[int]) -> None:
    """Raise SettingError if a seed is given twice, or if the settings resume a run."""
    if len({*seeds}) < len(seeds):
        raise SettingError(f"--seeds has a seed twice: {' '.join(map(str, seeds))}. Give each seed once.")
    if config.resume is not None:
        raise SettingError("--seeds resumes interrupted runs by itself. Omit --resume.")


def open_sources(config: TrainingConfig) -> Sources:
    """Return the digests of the data and of the base model."""
    base = config.from_pretrained or choose_base()[0]
    return describe_sources(config, base, open_base(base))


def settings_of_seed(config: TrainingConfig, seed: int) -> TrainingConfig:
    """Return the settings of the run of a seed."""
    return replace(config, seed=seed, experiment_name=f"{config.experiment_name}-seed{seed}")


def plan(config: TrainingConfig, sources: Sources, distributed: DistributedContext) -> Planned:
    """Return the action for the settings of a seed: the newest complete run counts, else the newest incomplete one."""
    interrupted: Path | None = None
    for path, record in find_runs(config, sources, distributed):
        if record["status"] == "complete":
            return Planned("done", path)
        if interrupted is None and Run(path, config.keep).directory_steps():
            interrupted = path
    return Planned("train") if interrupted is None else Planned("resume", interrupted)


def find_runs(
    config: TrainingConfig, sources: Sources, distributed: DistributedContext
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the runs with the same settings, data, base model and processes, with their records, newest first."""
    paths = config.save.glob(f"{glob.escape(config.experiment_name)}-*")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        record = read_earlier(path)
        if record is not None and is_same(record, config, sources, distributed):
            yield path, record


def is_same(
    record: Mapping[str, Any], config: TrainingConfig, sources: Sources, distributed: DistributedContext
) -> bool:
    """Return whether a record describes the same training from its beginning."""
    wanted = {name: comparable(value) for name, value in sources.entries().items()}
    return (
        compared_settings(record["settings"]) == compared_settings(plain_settings(config))
        and all(comparable(record[name]) == value for name, value in wanted.items())
        and all(not session["changes"] for session in record["sessions"])
        and all(session["processes"] == distributed.world_size for session in record["sessions"])
        and record["sessions"][0]["first_step"] == 0
    )


def describe_plan(planned: Planned) -> str:
    """Return a message about the action for a seed."""
    if planned.action == "train":
        return "training starts."
    return f"{planned.run} is {'resumed' if planned.action == 'resume' else 'complete'}."


def summarize(config: TrainingConfig, seeds: Sequence[int], sources: Sources, distributed: DistributedContext) -> None:
    """Print the table of all seeds, and write it as JSON next to the runs.

    Raises:
        TrainingError: the file cannot be written.
    """
    runs: dict[int, Path] = {}
    numbers: list[dict[str, float]] = []
    for seed in seeds:
        done = (pair for pair in find_runs(settings_of_seed(config, seed), sources, distributed))
        path, record = next(pair for pair in done if pair[1]["status"] == "complete")
        runs[seed] = path
        numbers.append(record["numbers"])
    summary = summarize_common(numbers)
    for line in format_table(seeds, summary):
        print_text(line)
    target = config.save / f"{config.experiment_name}-seeds.json"
    try:
        write_text_atomically(target, json.dumps(to_json(runs, summary), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise TrainingError(f"{target} cannot be written: {error}.") from error
    print_main(distributed, f"Written to {target}.")


def summarize_common(numbers: Sequence[Mapping[str, float]]) -> dict[str, SeedSummary]:
    """Return the summary of each number that all runs have."""
    common = [name for name in numbers[0] if all(name in each for each in numbers)]
    return summarize_seeds([{name: each[name] for name in common} for each in numbers])
