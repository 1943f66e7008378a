"""Start a run, or resume one from its newest intact checkpoint; save and load its configuration and weights."""

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
from model.checkpoint.resolve import TOKENIZER_NAME, VOCABULARY_NAME
from model.checkpoint.sat import CONFIG_NAME, LATEST_NAME, WEIGHTS_NAME
from model.checkpoint.save import GENERATION_NAME, write_json
from model.description import CONFIG_KEY as DESCRIPTION_KEY
from model.environment import expand_home
from model.errors import CheckpointError, VisualGLMError
from model.finetuned import FineTuneVisualGLMModel
from model.names import EMBEDDED

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
    """Start a new run, or find the run to resume, on all processes; the main process locks it.

    Raises:
        VisualGLMError: there is no run, it cannot be written, another training uses it, none of its checkpoints is
            intact, or it was started with other data, batches, seed or processes.
    """
    start = TrainingState(0, sampler.num_examples, sampler.step_size, sampler.seed, distributed.world_size)
    run: Run | None = None
    opened: tuple[Path, TrainingState] | VisualGLMError | None = None
    if distributed.is_main_process:
        try:
            run, state = open_first(config, distributed, start, model_config)
            opened = run.path, state
        except VisualGLMError as error:  # raised below by every process
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
    """Start or find a run, and lock it; for the main process."""
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
    """Return the state of a run's newest intact checkpoint; rename newer ones, which are damaged.

    Args:
        run: a run that is locked.
        start: the initial state of a new run with the same command.
        config: the settings.
        distributed: rank and world size.

    Raises:
        TrainingError: no checkpoint is intact, the run does not fit the command, or its files cannot be changed.
    """
    step, damages = run.find_intact()
    state = run.read_state(step)
    check_compatible(state, start, run)
    check_data(state, start, config, distributed)
    run.remove_partial()
    try:
        for damaged, damage in damages.items():
            renamed = run.rename_damaged(damaged)
            print_main(
                distributed,
                f"The checkpoint of step {damaged} in {run.path} is damaged: {damage}. It was renamed {renamed.name}.",
            )
        if damages or not latest_names(run.path / LATEST_NAME, step):
            run.write_latest(step)
    except OSError as error:
        raise TrainingError(f"{run.path} cannot be changed ({error}). Check its permissions.") from error
    state.train_hashes, state.valid_hashes = start.train_hashes, start.valid_hashes
    return state


def latest_names(latest: Path, step: int) -> bool:
    """Return whether the file `latest` contains the number of a step."""
    try:
        return latest.read_bytes().strip() == str(step).encode()
    except OSError:
        return False


def hash_data(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each data file.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return [hash_file(path) for path in paths]
    except OSError as error:
        raise DataError(f"The data {error.filename} cannot be read: {error.strerror}. Check the path.") from error


def check_compatible(state: TrainingState, start: TrainingState, run: Run) -> None:
    """Raise TrainingError if a run was started with other examples, steps, seed or processes."""
    for name, label in (
        ("examples", "answers in the data"),
        ("step_size", "examples in a step, over all processes"),
        ("seed", "as seed"),
        ("processes", "processes"),
    ):
        before, now = getattr(state, name), getattr(start, name)
        if before != now:
            raise TrainingError(
                f"{run.path} was trained with {before} {label}; this command has {now}. Resume with the same command, "
                "or start a new run from this one: --from_pretrained with its directory, without --resume."
            )


def check_data(
    state: TrainingState, start: TrainingState, config: TrainingConfig, distributed: DistributedContext
) -> None:
    """Compare the SHA-256 of the data files with those in the checkpoint; print a message about changed files.

    Raises:
        TrainingError: the training data has changed, and --allow-changed-data is not given.
    """
    changed = changed_files(state.train_hashes, start.train_hashes, config.train_data)
    if changed and not config.allow_changed_data:
        raise TrainingError(
            f"The training data has changed since the checkpoint of step {state.step} was written: {changed}. Restore "
            "the files, or continue with the changed data by --allow-changed-data; the losses will differ."
        )
    if changed:
        print_main(distributed, f"The training data has changed since step {state.step}: {changed}.")
    changed = changed_files(state.valid_hashes, start.valid_hashes, config.valid_data)
    if changed:
        print_main(
            distributed,
            f"The held-out data has changed since step {state.step}: {changed}. Its losses are not comparable with the "
            "earlier ones.",
        )


def changed_files(before: Sequence[str], now: Sequence[str], paths: Sequence[Path]) -> str:
    """Return the names of the changed files; "" if none has changed, or if the checkpoint has no hashes."""
    if not before:
        return ""
    if len(before) != len(now):
        return f"{len(now)} files instead of {len(before)}"
    return ", ".join(str(path) for path, old, new in zip(paths, before, now, strict=True) if old != new)


def make_run(save: Path, experiment: str, model_config: Mapping[str, Any], keep: int) -> Run:
    """Create the directory of a new run, with its configuration.

    Raises:
        TrainingError: the directory cannot be written.
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
        raise TrainingError(
            f"No run can be written to {save} ({error}). Choose another directory with --save."
        ) from error
    return Run(path, keep)


def find_run(save: Path, experiment: str, name: str, keep: int) -> Run:
    """Return the run to resume: the one called `name`, or the newest run of the experiment with a checkpoint.

    Raises:
        CheckpointError: there is no such run.
    """
    if name:
        candidates = [Path(name), save / name]
    else:
        found = (path for path in save.glob(f"{glob.escape(experiment)}-*") if path.is_dir())
        candidates = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in candidates:
        if (path / CONFIG_NAME).is_file() and Run(path, keep).directory_steps():
            return Run(path, keep)
    searched = ", ".join(str(path) for path in candidates) or f"{save} for {experiment}-*"
    raise CheckpointError(
        f"There is no run to resume: searched {searched}. A run is a directory with {CONFIG_NAME} and at least one "
        "checkpoint. Start a new run without --resume."
    )


def run_config(base: str, checkpoint: Checkpoint, settings: Mapping[str, Any], is_standalone: bool) -> dict[str, Any]:
    """Return the contents of the run's model_config.json.

    Args:
        base: name or directory of the base model.
        checkpoint: checkpoint of the base model.
        settings: the entries of `finetune.methods.method_settings`.
        is_standalone: whether the run contains all weights, so that it needs no base model.
    """
    config = {**checkpoint.config, **settings, "model_class": FineTuneVisualGLMModel.__name__, "qkv_layout": SPLIT}
    config.pop(DESCRIPTION_KEY, None)  # it describes the base model, and need not hold for the fine-tuned one
    if config.get("tokenizer_type") == str(checkpoint.path):
        del config["tokenizer_type"]
    if not is_standalone:
        is_path = not (EMBEDDED / base).is_dir() and expand_home(base).exists()
        config[BASE_KEY] = str(expand_home(base).resolve()) if is_path else base
    return config


def copy_companion_files(checkpoint: Checkpoint, run: Run, is_standalone: bool) -> None:
    """Copy the base model's generation settings into the run, and its tokenizer if the run needs no base model."""
    settings = checkpoint.find_folder(GENERATION_NAME) / GENERATION_NAME
    if settings.is_file():
        shutil.copyfile(settings, run.path / GENERATION_NAME)
    if is_standalone:
        source = find_vocabulary(checkpoint.path)
        for name in (VOCABULARY_NAME, TOKENIZER_NAME):
            if (source / name).is_file():
                shutil.copyfile(source / name, run.path / name)


def gather_tensors(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, distributed: DistributedContext
) -> dict[str, torch.Tensor]:
    """Return complete tensors on the main process's CPU; every process has to call it, as ZeRO 3 shards them."""
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
    """Load the weights of a checkpoint into the trainable parameters.

    Raises:
        TrainingError: the checkpoint was trained by another method, or with other layers or sizes.
    """
    stored = open_tensors(run.folder(state.step) / WEIGHTS_NAME)
    differing = [name for name in trained if name not in stored or stored[name].shape != trained[name].shape]
    if differing:
        raise TrainingError(
            f"{run.path} has no {differing[0]} of the shape that this command trains. Resume with the same command "
            "that started the run."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])
