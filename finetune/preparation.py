"""Prepare a training: load the model and the data, and open the run."""

import atexit
import importlib.util
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from model.checkpoint import Checkpoint
from model.engine.network import Network
from model.finetuned import FineTuneVisualGLMModel
from model.loading import load_tokenizer
from model.prompt import Tokenizer
from model.visualglm import VisualGLMModel

from .batches import choose_workers, max_batch_bytes
from .checkpoints import Run
from .config import TrainingConfig
from .data import ChatDataset, split_rows
from .deepspeed_optimizer import DeepspeedOptimizer
from .distributed import DistributedContext, init_distributed, is_launched, print_main, read_world_size
from .errors import TrainingError
from .evaluation import check_metrics
from .forward import AnswerLoss
from .images import FileEmbeddingCache
from .methods import (
    build_network,
    choose_base,
    choose_precision,
    choose_trained,
    describe_trained,
    method_settings,
    open_base,
    trains_image_encoder,
)
from .metrics import AnswerMetrics
from .optimizer import Optimizer, OptimizerSettings, PlainOptimizer
from .progress import TrainingLogger
from .record import RunRecord, describe_sources, start_record
from .rehearsal import write_rehearsal_data
from .rows import Rows, describe_ignored_keys, read_rows
from .runs import copy_companion_files, gather_tensors, load_trained, open_run, run_config
from .sampler import ResumableBatchSampler
from .stopping import StopRequest
from .trainer import Trainer
from .training_state import TrainingState


def wants_deepspeed(config: TrainingConfig) -> bool:
    """Return whether to train with deepspeed: for several processes, ZeRO, or offloading.

    A single process trains without ZeRO if deepspeed is not installed.

    Raises:
        TrainingError: deepspeed is needed, but not installed.
    """
    several = read_world_size() > 1
    if importlib.util.find_spec("deepspeed") is not None:
        return several or config.zero_stage > 0 or config.offload
    if several or config.offload:
        raise TrainingError("Several processes and --offload need deepspeed. Run: pip install deepspeed")
    return False


def max_example_length(config: TrainingConfig, network: Network) -> int:
    """Return the maximum number of tokens of an example for a network."""
    return min(int(config.max_length), int(network.max_sequence_length))


def open_data(
    config: TrainingConfig, files: Sequence[Rows], network: Network, tokenizer: Tokenizer
) -> list[ChatDataset]:
    """Open files of training data as datasets for a network."""
    sizes: dict[str, Any] = {"image_length": network.image_length, "image_size": network.image_size}
    length = max_example_length(config, network)
    return [ChatDataset(rows, tokenizer, max_length=length, on_bad_row=config.on_bad_row, **sizes) for rows in files]


def describe_data(datasets: Sequence[ChatDataset]) -> str:
    """Return a message with the numbers of answers, rows and bad rows, and the keys that are ignored."""
    answers, rows = sum(map(len, datasets)), sum(len(dataset.rows) for dataset in datasets)
    bad = sum(len(dataset.bad_rows) for dataset in datasets)
    ignored_keys = sum((dataset.ignored_keys for dataset in datasets), Counter())
    skipped = f"; {bad} bad rows are skipped" if bad else ""
    keys = f" Ignored keys: {describe_ignored_keys(ignored_keys)}." if ignored_keys else ""
    return f"Data: {answers} answers to train on, in {rows} rows{skipped}.{keys}"


def make_optimizer(
    config: TrainingConfig,
    network: VisualGLMModel,
    trained: dict[str, torch.nn.Parameter],
    dtype: torch.dtype,
    uses_deepspeed: bool,
) -> Optimizer:
    """Return the optimizer, which wraps the loss module."""
    settings = OptimizerSettings(
        config.weight_decay,
        config.clip_grad,
        dtype,
        config.batch_size,
        config.gradient_accumulation_steps,
        config.zero_stage,
        config.offload,
    )
    module = AnswerLoss(network, config.checkpoint_activations, use_all_weights=config.zero_stage == 3)
    if uses_deepspeed:
        return DeepspeedOptimizer(module, trained.values(), settings)
    return PlainOptimizer(module, trained.values(), settings, uses_autocast=config.full)


def build_rehearsal_set(
    config: TrainingConfig,
    distributed: DistributedContext,
    network: VisualGLMModel,
    tokenizer: Tokenizer,
    train_data: Sequence[ChatDataset],
) -> list[ChatDataset]:
    """Generate answers of the base model about the training images, and return them as datasets.

    A resumed run generates them again.
    """
    if not config.rehearsal:
        return []
    folder = Path(tempfile.mkdtemp(prefix="visualglm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the dataset reads the file until the program ends
    file = folder / "memory.jsonl"
    write_rehearsal_data(file, network, tokenizer, train_data, config.rehearsal, config.seed)
    datasets = open_data(config, [read_rows(file)], network, tokenizer) if file.is_file() else []
    print_main(distributed, f"Rehearsal: {sum(map(len, datasets))} answers of the base model.")
    return datasets


def count_repeats(train_data: Sequence[ChatDataset], rehearsal: Sequence[ChatDataset]) -> int:
    """Return how often to repeat the training data, so that it has about as many answers as the rehearsal data."""
    return max(1, round(sum(map(len, rehearsal)) / sum(map(len, train_data))))


def make_sampler(
    config: TrainingConfig, datasets: Sequence[ChatDataset], distributed: DistributedContext
) -> ResumableBatchSampler:
    """Return the sampler of the examples of all datasets."""
    lengths = [length for dataset in datasets for length in dataset.lengths]
    return ResumableBatchSampler(
        sum(map(len, datasets)),
        config.batch_size,
        config.gradient_accumulation_steps,
        distributed.world_size,
        distributed.rank,
        config.seed,
        lengths if config.group_by_length else None,
    )


def make_logger(config: TrainingConfig, base: str, run: Path, first: int, last: int) -> TrainingLogger:
    """Return the logger of the training."""
    settings = {**asdict(config), "from_pretrained": base}
    wandb = {"project": config.wandb_project_name, "name": run.name, "config": settings}
    return TrainingLogger(run, first, last, config.summary_dir, wandb if config.wandb else None, settings)


def make_record(
    config: TrainingConfig, distributed: DistributedContext, run: Run, state: TrainingState, loaded: "LoadedModel"
) -> RunRecord:
    """Start the record of a run; print which settings, data and base model a resumed run has changed."""
    sources = describe_sources(config, loaded.base, loaded.checkpoint)
    record = start_record(config, distributed, run.path, state.step, sources)
    if changes := record.content["sessions"][-1]["changes"]:
        print_main(distributed, f"Not as at the start of the run: {', '.join(changes)}.")
    return record


@dataclass(frozen=True)
class LoadedModel:
    """The model to train.

    Attributes:
        base: name or directory of the base model.
        checkpoint: checkpoint of the base model.
        settings: entries of model_config.json that describe the adapter.
        network, tokenizer: the model.
        trained: the trainable parameters, by name.
        dtype: dtype of the forward pass.
    """

    base: str
    checkpoint: Checkpoint
    settings: dict[str, Any]
    network: FineTuneVisualGLMModel
    tokenizer: Tokenizer
    trained: dict[str, torch.nn.Parameter]
    dtype: torch.dtype


OpenModel = Callable[[str], Checkpoint]


def load_model(
    config: TrainingConfig, distributed: DistributedContext, open_model: OpenModel = open_base
) -> LoadedModel:
    """Load the base model with `open_model`, add the adapter, choose the trainable parameters, and describe them."""
    base, notice = (config.from_pretrained, "") if config.from_pretrained is not None else choose_base()
    print_main(distributed, notice)
    checkpoint = open_model(base)
    dtype, notice = choose_precision(config, distributed.device, checkpoint.config)
    print_main(distributed, notice)
    settings = method_settings(config, checkpoint.config["num_layers"])
    network = build_network(checkpoint, settings, distributed.device, dtype)
    trained = choose_trained(network, config)
    print_main(distributed, describe_trained(trained, network))
    return LoadedModel(base, checkpoint, settings, network, load_tokenizer(checkpoint.path), trained, dtype)


def prepare(config: TrainingConfig, open_model: OpenModel = open_base) -> Trainer:
    """Prepare a training: processes, model, data, optimizer, and a new or resumed run.

    Args:
        config: the settings.
        open_model: opens the base model.

    Raises:
        VisualGLMError: the model, the data or the run cannot be opened, or the settings do not fit them.
    """
    metrics = AnswerMetrics(config.metric) if config.metric else None
    # The data is opened first, since a path may be misspelled and loading the model takes long.
    train_rows, valid_rows = ([read_rows(path) for path in paths] for paths in (config.train_data, config.valid_data))
    held_out_rows: list[Rows] = []
    if config.valid_share:
        train_rows, held_out_rows = split_rows(train_rows, config.valid_share, config.seed)
    uses_deepspeed = wants_deepspeed(config)
    distributed = init_distributed(config.device, wants_nccl=uses_deepspeed)
    torch.manual_seed(config.seed)
    loaded = load_model(config, distributed, open_model)
    network, tokenizer = loaded.network, loaded.tokenizer
    train, valid = (
        open_data(config, files, network, tokenizer) for files in (train_rows, [*held_out_rows, *valid_rows])
    )
    print_main(distributed, describe_data(train))
    if metrics is not None:
        check_metrics(metrics, tokenizer, valid[0], config.eval_answers)
    if held_out_rows:
        print_main(distributed, f"Held out for the evaluation: {sum(map(len, valid[: len(held_out_rows)]))} answers.")
    rehearsal = build_rehearsal_set(config, distributed, network, tokenizer, train)
    train = train * count_repeats(train, rehearsal)
    sampler = make_sampler(config, train + rehearsal, distributed)
    size = max_batch_bytes(config.batch_size, max_example_length(config, network), network.image_size)
    workers, notice = choose_workers(config.num_workers, size, sampler.batches_per_step)
    print_main(distributed, notice)
    run, state = start_run(config, distributed, loaded, sampler)
    try:
        optimizer = make_optimizer(config, network, loaded.trained, loaded.dtype, uses_deepspeed)
        if state.step:
            load_optimizer(optimizer, run, state)
            print_main(distributed, f"Resuming {run.path} after step {state.step}.")
        last = config.train_iters or sampler.steps(config.epochs)
        logger = make_logger(config, loaded.base, run.path, state.step, last) if distributed.is_main_process else None
        record = make_record(config, distributed, run, state, loaded) if distributed.is_main_process else None
    except BaseException:
        run.close()
        raise
    return Trainer(
        config=config,
        distributed=distributed,
        network=network,
        tokenizer=tokenizer,
        optimizer=optimizer,
        image_cache=make_cache(config, loaded),
        train_data=ConcatDataset(train + rehearsal),
        num_new=sum(map(len, train)),
        valid=valid,
        sampler=sampler,
        run=run,
        state=state,
        last_step=last,
        num_workers=workers,
        collect_weights=partial(collect_weights, config, distributed, loaded),
        logger=logger,
        record=record,
        metrics=metrics,
        stop_request=StopRequest(distributed.is_main_process, is_launched()),
    )


def load_optimizer(optimizer: Optimizer, run: Run, state: TrainingState) -> None:
    """Restore the optimizer's state from a checkpoint.

    Raises:
        TrainingError: the checkpoint was written by the other kind of optimizer.
    """
    folder = run.folder(state.step)
    if not (folder / optimizer.state_name).exists():
        raise TrainingError(
            f"{folder} has no {optimizer.state_name}: the run was started with deepspeed and is resumed without it, or "
            "the reverse. Resume with the command that started the run."
        )
    optimizer.load(folder)


def start_run(
    config: TrainingConfig, distributed: DistributedContext, loaded: LoadedModel, sampler: ResumableBatchSampler
) -> tuple[Run, TrainingState]:
    """Open the run's directory; load the trained weights of a resumed run, before ZeRO 3 shards the network."""
    is_standalone = config.save_full or len(loaded.trained) == sum(1 for _ in loaded.network.parameters())
    model_config = run_config(loaded.base, loaded.checkpoint, loaded.settings, is_standalone)
    run, state = open_run(config, distributed, sampler, model_config)
    try:
        if distributed.is_main_process:
            copy_companion_files(loaded.checkpoint, run, is_standalone)
        if state.step:
            load_trained(run, state, loaded.trained)
    except BaseException:
        run.close()
        raise
    return run, state


def make_cache(config: TrainingConfig, loaded: LoadedModel) -> FileEmbeddingCache | None:
    """Return a cache of image embeddings; None if they may change during the training, or with ZeRO 3."""
    varies = trains_image_encoder(loaded.trained) or config.crop < 1 or config.flip
    # ZeRO 3 gathers weights only in the engine's forward pass, on all processes at the same time.
    if varies or config.zero_stage == 3:
        return None
    return FileEmbeddingCache(loaded.network, config.cache_images * 1e9)


def collect_weights(
    config: TrainingConfig, distributed: DistributedContext, loaded: LoadedModel
) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint on the main process; every process has to call it."""
    tensors: dict[str, torch.Tensor] = dict(loaded.trained)
    if config.save_full:
        tensors = dict(loaded.network.state_dict(keep_vars=True))
    return gather_tensors(tensors, loaded.dtype if config.full or config.save_full else None, distributed)
