"""Opening a run: a new one, or the one to resume with its newest whole checkpoint."""

import glob
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import Checkpoint, find_vocabulary
from model.checkpoint.adapters import BASE_KEY
from model.checkpoint.files import open_tensors
from model.checkpoint.layout import SPLIT
from model.checkpoint.resolve import EMBEDDED, TOKENIZER_NAME, VOCABULARY_NAME
from model.checkpoint.sat import CONFIG_NAME, LATEST_NAME, WEIGHTS_NAME
from model.checkpoint.save import GENERATION_NAME, write_json
from model.description import CONFIG_KEY as DESCRIPTION_KEY
from model.environment import expand_home
from model.errors import CheckpointError, VisualGLMError
from model.finetuned import FineTuneVisualGLMModel

from .checkpoints import Run, RunLock
from .config import TrainingConfig
from .distributed import DistributedContext, print_main
from .errors import DataError, TrainingError
from .sampler import ResumableBatchSampler
from .training_state import TrainingState, hash_file


def open_run(
    config: TrainingConfig,
    distributed: DistributedContext,
    sampler: ResumableBatchSampler,
    model_config: Mapping[str, Any],
) -> tuple[Run, TrainingState]:
    """Make a new run, or find the one to resume; every process gets the same, and the first locks it.

    Raises:
        VisualGLMError: there is none, it cannot be written, another training uses it, no checkpoint of it is whole, or
            it was made with other data or batches.
    """
    start = TrainingState(0, sampler.num_examples, sampler.step_size, sampler.seed, distributed.world_size)
    run: Run | None = None
    opened: tuple[Path, TrainingState] | VisualGLMError | None = None
    if distributed.is_main_process:
        try:
            run, state = open_first(config, distributed, start, model_config)
            opened = run.path, state
        except VisualGLMError as error:  # every process has to hear of it
            opened = error
    opened = distributed.broadcast(opened)
    if isinstance(opened, VisualGLMError):
        raise opened
    assert opened is not None
    path, state = opened
    return run or Run(path, config.keep), state


def open_first(
    config: TrainingConfig, distributed: DistributedContext, start: TrainingState, model_config: Mapping[str, Any]
) -> tuple[Run, TrainingState]:
    """Make or find a run and lock it, as the first process does."""
    start.train_hashes = hash_data(config.train_data)
    start.valid_hashes = hash_data(config.valid_data)
    if config.resume is None:
        run = make_run(config.save, config.experiment_name, model_config, config.keep)
        run.lock = RunLock(run.path)
        return run, start
    run = find_run(config.save, config.experiment_name, config.resume, config.keep)
    run.lock = RunLock(run.path)
    try:
        return run, resume(run, start, config, distributed)
    except BaseException:
        run.close()
        raise


def resume(run: Run, start: TrainingState, config: TrainingConfig, distributed: DistributedContext) -> TrainingState:
    """Return the state of a run's newest whole checkpoint; rename the newer ones, which are damaged, and say so.

    Args:
        run: a run that is locked.
        start: the state of a new run with the same command.
    """
    step, damages = run.find_intact()
    state = run.read_state(step)
    check_compatible(state, start, run)
    check_data(state, start, config, distributed)
    run.remove_partial()
    try:
        for damaged, damage in damages.items():
            aside = run.rename_damaged(damaged)
            print_main(
                distributed,
                f"The checkpoint of step {damaged} in {run.path} is damaged: {damage}. It is {aside.name} now.",
            )
        if damages or not latest_names(run.path / LATEST_NAME, step):
            run.write_latest(step)
    except OSError as error:
        raise TrainingError(f"{run.path} cannot be changed ({error}). Look at its permissions.") from error
    state.train_hashes, state.valid_hashes = start.train_hashes, start.valid_hashes
    return state


def latest_names(latest: Path, step: int) -> bool:
    """Whether the file `latest` names a step."""
    try:
        return latest.read_bytes().strip() == str(step).encode()
    except OSError:
        return False


def hash_data(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file of data.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return [hash_file(path) for path in paths]
    except OSError as error:
        raise DataError(f"The data {error.filename} cannot be read: {error.strerror}. Check the path.") from error


def check_compatible(state: TrainingState, start: TrainingState, run: Run) -> None:
    """Raise TrainingError where a run cannot go on as it was begun."""
    for name, what in (
        ("examples", "answers in the data"),
        ("step_size", "examples in a step, over all processes"),
        ("seed", "as seed"),
        ("processes", "processes"),
    ):
        before, now = getattr(state, name), getattr(start, name)
        if before != now:
            raise TrainingError(
                f"{run.path} was trained with {before} {what}; now it would be {now}. Resume with the same command, "
                "or begin a new run from this one: --from_pretrained with its directory, without --resume."
            )


def check_data(
    state: TrainingState, start: TrainingState, config: TrainingConfig, distributed: DistributedContext
) -> None:
    """Compare the data files with the checkpoint's by their SHA-256.

    Raises:
        TrainingError: the training data has changed, and --allow-changed-data is not given.
    """
    changed = changed_files(state.train_hashes, start.train_hashes, config.train_data)
    if changed and not config.allow_changed_data:
        raise TrainingError(
            f"The training data has changed since the checkpoint of step {state.step} was written: {changed}. Put back "
            "what it was, or go on with the changed data by --allow-changed-data; the losses will be different ones."
        )
    if changed:
        print_main(distributed, f"The training data has changed since step {state.step}: {changed}.")
    changed = changed_files(state.valid_hashes, start.valid_hashes, config.valid_data)
    if changed:
        print_main(
            distributed,
            f"The held-out data has changed since step {state.step}: {changed}. Its losses cannot be compared with the "
            "earlier ones.",
        )


def changed_files(before: Sequence[str], now: Sequence[str], paths: Sequence[Path]) -> str:
    """Return the names of the files that have changed; "" where none has, or where no hashes were kept."""
    if not before:
        return ""
    if len(before) != len(now):
        return f"{len(now)} files instead of {len(before)}"
    return ", ".join(str(path) for path, old, new in zip(paths, before, now, strict=True) if old != new)


def make_run(save: Path, experiment: str, model_config: Mapping[str, Any], keep: int) -> Run:
    """Make the directory of a new run with its configuration.

    Raises:
        TrainingError: it cannot be written.
    """
    stem = f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    try:
        save.mkdir(parents=True, exist_ok=True)
        while True:
            path = save / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                number += 1
        write_json(path / CONFIG_NAME, model_config)
    except OSError as error:
        raise TrainingError(f"No run can be written to {save} ({error}). Give another place with --save.") from error
    return Run(path, keep)


def find_run(save: Path, experiment: str, name: str, keep: int) -> Run:
    """Find the run to go on with: the one called `name`, or the newest of the experiment that has a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if name:
        candidates = [Path(name), save / name]
    else:
        found = (path for path in save.glob(f"{glob.escape(experiment)}-*") if path.is_dir())
        candidates = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in candidates:
        if (path / CONFIG_NAME).is_file() and Run(path, keep).directory_steps():
            return Run(path, keep)
    looked = ", ".join(str(path) for path in candidates) or f"{save} for {experiment}-*"
    raise CheckpointError(
        f"There is no run to resume: looked at {looked}. A run is a directory with {CONFIG_NAME} and at least one "
        "checkpoint. Start anew without --resume."
    )


def run_config(base: str, checkpoint: Checkpoint, settings: Mapping[str, Any], is_standalone: bool) -> dict[str, Any]:
    """Return the run's model_config.json.

    Args:
        base: name or directory of the base model, which `checkpoint` is.
        settings: what `finetune.methods.method_settings` returns.
        is_whole: whether the run needs no base.
    """
    config = {**checkpoint.config, **settings, "model_class": FineTuneVisualGLMModel.__name__, "qkv_layout": SPLIT}
    config.pop(DESCRIPTION_KEY, None)  # what the base knows is not what the run knows
    if config.get("tokenizer_type") == str(checkpoint.path):
        del config["tokenizer_type"]
    if not is_standalone:
        is_path = not (EMBEDDED / base).is_dir() and expand_home(base).exists()
        config[BASE_KEY] = str(expand_home(base).resolve()) if is_path else base
    return config


def copy_companion_files(checkpoint: Checkpoint, run: Run, is_standalone: bool) -> None:
    """Copy what the base says of its answers into the run, and its tokenizer where the run needs no base."""
    if (checkpoint.path / GENERATION_NAME).is_file():
        shutil.copyfile(checkpoint.path / GENERATION_NAME, run.path / GENERATION_NAME)
    if is_standalone:
        source = find_vocabulary(checkpoint.path)
        for name in (VOCABULARY_NAME, TOKENIZER_NAME):
            if (source / name).is_file():
                shutil.copyfile(source / name, run.path / name)


def gather_tensors(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, distributed: DistributedContext
) -> dict[str, torch.Tensor]:
    """Return tensors on the CPU, on the first process; all take part, as ZeRO 3 has cut them among them."""
    collected = {}
    for name, tensor in tensors.items():
        if hasattr(tensor, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([tensor]):
                tensor_on_cpu = tensor.detach().to("cpu", dtype, copy=True) if distributed.is_main_process else None
        else:
            tensor_on_cpu = tensor.detach().to("cpu", dtype) if distributed.is_main_process else None
        if tensor_on_cpu is not None:
            collected[name] = tensor_on_cpu
    return collected


def load_trained(run: Run, state: TrainingState, trained: dict[str, torch.nn.Parameter]) -> None:
    """Give what is trained the numbers of a checkpoint.

    Raises:
        TrainingError: the checkpoint is of another method, or of other layers.
    """
    stored = open_tensors(run.folder(state.step) / WEIGHTS_NAME)
    differing = [name for name in trained if name not in stored or stored[name].shape != trained[name].shape]
    if differing:
        raise TrainingError(
            f"{run.path} holds no {differing[0]} as this command would train it. Resume with the same command that "
            "began the run."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])
