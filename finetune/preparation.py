"""From the command line to a training that can begin."""

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

from .batches import choose_workers, most_bytes
from .checkpoints import Run
from .config import TrainingConfig
from .data import ChatDataset, split_rows
from .deepspeed_optimizer import DeepspeedOptimizer
from .distributed import Processes, count_processes, is_launched, join_processes, say
from .errors import TrainingError
from .forward import AnswerLoss
from .images import PictureCache
from .methods import (
    build_network,
    choose_base,
    choose_precision,
    choose_trained,
    describe_trained,
    method_settings,
    open_base,
    trains_image_part,
)
from .optimizer import Optimizer, PlainOptimizer, Settings
from .progress import Recorder
from .rehearsal import write_memory
from .rows import Rows, describe_unread, read_rows
from .runs import collect, copy_beside, load_trained, open_run, run_config
from .sampler import Order
from .stopping import StopRequest
from .training import Training
from .training_state import State


def wants_deepspeed(config: TrainingConfig) -> bool:
    """Whether deepspeed is to be used: for several processes, ZeRO or offload; a single process needs none of them.

    Raises:
        TrainingError: it is needed, and not installed.
    """
    several = count_processes() > 1
    if importlib.util.find_spec("deepspeed") is not None:
        return several or config.zero_stage > 0 or config.offload
    if several or config.offload:
        raise TrainingError("Several processes and --offload need deepspeed. Run: pip install deepspeed")
    return False


def longest_example(config: TrainingConfig, network: Network) -> int:
    """Return the most tokens of an example for a network."""
    return min(int(config.max_length), int(network.max_sequence_length))


def open_data(
    config: TrainingConfig, files: Sequence[Rows], network: Network, tokenizer: Tokenizer
) -> list[ChatDataset]:
    """Open files of training data for a network."""
    sizes: dict[str, Any] = {"image_length": network.image_length, "image_size": network.image_size}
    length = longest_example(config, network)
    return [ChatDataset(rows, tokenizer, max_length=length, on_bad_row=config.on_bad_row, **sizes) for rows in files]


def describe_data(datasets: Sequence[ChatDataset]) -> str:
    """Say what the data holds, and what of it is left out."""
    answers, rows = sum(map(len, datasets)), sum(len(dataset.rows) for dataset in datasets)
    bad = sum(len(dataset.bad_rows) for dataset in datasets)
    unread = sum((dataset.unread for dataset in datasets), Counter())
    skipped = f"; {bad} bad rows are skipped" if bad else ""
    keys = f" Keys that are not read: {describe_unread(unread)}." if unread else ""
    return f"Data: {answers} answers to learn in {rows} rows{skipped}.{keys}"


def make_optimizer(
    config: TrainingConfig,
    network: VisualGLMModel,
    trained: dict[str, torch.nn.Parameter],
    dtype: torch.dtype,
    deep: bool,
) -> Optimizer:
    """Return what computes losses and changes the network."""
    settings = Settings(
        config.weight_decay,
        config.clip_grad,
        dtype,
        config.batch_size,
        config.gradient_accumulation_steps,
        config.zero_stage,
        config.offload,
    )
    module = AnswerLoss(network, config.checkpoint_activations, always_looks=config.zero_stage == 3)
    if deep:
        return DeepspeedOptimizer(module, trained.values(), settings)
    return PlainOptimizer(module, trained.values(), settings, mixed=config.full)


def recall(
    config: TrainingConfig,
    processes: Processes,
    network: VisualGLMModel,
    tokenizer: Tokenizer,
    train: Sequence[ChatDataset],
) -> list[ChatDataset]:
    """Return what the base says of the pictures, as data to be mixed in; it is asked anew where a run goes on."""
    if not config.remember:
        return []
    folder = Path(tempfile.mkdtemp(prefix="visualglm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the data is read as long as the program runs
    file = folder / "memory.jsonl"
    write_memory(file, network, tokenizer, train, config.remember, config.seed)
    held = open_data(config, [read_rows(file)], network, tokenizer) if file.is_file() else []
    say(processes, f"Remembered: {sum(map(len, held))} answers of the base.")
    return held


def repeats(train: Sequence[ChatDataset], remembered: Sequence[ChatDataset]) -> int:
    """Return how often what is new comes for what is remembered to come once: so often that it is about as much."""
    return max(1, round(sum(map(len, remembered)) / sum(map(len, train))))


def make_order(config: TrainingConfig, datasets: Sequence[ChatDataset], processes: Processes) -> Order:
    """Return the order of the examples."""
    sizes = [size for dataset in datasets for size in dataset.sizes]
    return Order(
        sum(map(len, datasets)),
        config.batch_size,
        config.gradient_accumulation_steps,
        processes.count,
        processes.rank,
        config.seed,
        sizes if config.group_by_length else None,
    )


def make_recorder(config: TrainingConfig, base: str, run: Path, first: int, last: int) -> Recorder:
    """Return what records the training."""
    settings = {**asdict(config), "from_pretrained": base}
    wandb = {"project": config.wandb_project_name, "name": run.name, "config": settings}
    return Recorder(run, first, last, config.summary_dir, wandb if config.wandb else None)


@dataclass(frozen=True)
class Begun:
    """The model to train.

    Attributes:
        base: name or directory of its base.
        checkpoint: of its base.
        settings: what is added, as entries of model_config.json.
        network, tokenizer: the model.
        trained: what of it is trained, by name.
        dtype: that it computes in.
    """

    base: str
    checkpoint: Checkpoint
    settings: dict[str, Any]
    network: FineTuneVisualGLMModel
    tokenizer: Tokenizer
    trained: dict[str, torch.nn.Parameter]
    dtype: torch.dtype


Open = Callable[[str], Checkpoint]


def begin(config: TrainingConfig, processes: Processes, open_model: Open = open_base) -> Begun:
    """Load the base that `open_model` opens, add what is to be trained, and say so."""
    base, notice = (config.from_pretrained, "") if config.from_pretrained is not None else choose_base()
    say(processes, notice)
    checkpoint = open_model(base)
    dtype, notice = choose_precision(config, processes.device, checkpoint.config)
    say(processes, notice)
    settings = method_settings(config, checkpoint.config["num_layers"])
    network = build_network(checkpoint, settings, processes.device, dtype)
    trained = choose_trained(network, config)
    say(processes, describe_trained(trained, network))
    return Begun(base, checkpoint, settings, network, load_tokenizer(checkpoint.path), trained, dtype)


def prepare(config: TrainingConfig, open_model: Open = open_base) -> Training:
    """Make everything ready: processes, model, data, optimizer, and the run, new or resumed.

    Args:
        config: the settings.
        open_model: opens the model to begin from.

    Raises:
        VisualGLMError: something of it cannot be had.
    """
    # Before anything that takes time: a path may be misspelled.
    train_rows, valid_rows = ([read_rows(path) for path in paths] for paths in (config.train_data, config.valid_data))
    held_rows: list[Rows] = []
    if config.valid_share:
        train_rows, held_rows = split_rows(train_rows, config.valid_share, config.seed)
    deep = wants_deepspeed(config)
    processes = join_processes(config.device, wants_nccl=deep)
    torch.manual_seed(config.seed)
    begun = begin(config, processes, open_model)
    network, tokenizer = begun.network, begun.tokenizer
    train, valid = (open_data(config, files, network, tokenizer) for files in (train_rows, [*held_rows, *valid_rows]))
    say(processes, describe_data(train))
    if held_rows:
        say(processes, f"Held back for the evaluation: {sum(map(len, valid[: len(held_rows)]))} answers.")
    remembered = recall(config, processes, network, tokenizer, train)
    train = train * repeats(train, remembered)
    order = make_order(config, train + remembered, processes)
    size = most_bytes(config.batch_size, longest_example(config, network), network.image_size)
    workers, notice = choose_workers(config.num_workers, size, order.batches)
    say(processes, notice)
    run, state = start_run(config, processes, begun, order)
    try:
        optimizer = make_optimizer(config, network, begun.trained, begun.dtype, deep)
        if state.step:
            load_optimizer(optimizer, run, state)
            say(processes, f"Goes on with {run.path} after step {state.step}.")
        last = config.train_iters or order.steps(config.epochs)
        recorder = make_recorder(config, begun.base, run.path, state.step, last) if processes.is_first else None
    except BaseException:
        run.close()
        raise
    return Training(
        config=config,
        processes=processes,
        network=network,
        tokenizer=tokenizer,
        optimizer=optimizer,
        pictures=make_cache(config, begun),
        train=ConcatDataset(train + remembered),
        new=sum(map(len, train)),
        valid=valid,
        order=order,
        run=run,
        state=state,
        last=last,
        workers=workers,
        tensors=partial(collect_saved, config, processes, begun),
        recorder=recorder,
        stop=StopRequest(processes.is_first, is_launched()),
    )


def load_optimizer(optimizer: Optimizer, run: Run, state: State) -> None:
    """Go on from the optimizer of a checkpoint.

    Raises:
        TrainingError: the checkpoint has another optimizer.
    """
    folder = run.folder(state.step)
    if not (folder / optimizer.saved_as).exists():
        raise TrainingError(
            f"{folder} has no {optimizer.saved_as}: it was written with deepspeed and is read without, or "
            "conversely. Resume with the same command that began the run."
        )
    optimizer.load(folder)


def start_run(config: TrainingConfig, processes: Processes, begun: Begun, order: Order) -> tuple[Run, State]:
    """Open the run's directory; give the network what a resumed one has kept, before ZeRO 3 cuts it up."""
    is_whole = config.save_full or len(begun.trained) == sum(1 for _ in begun.network.parameters())
    model_config = run_config(begun.base, begun.checkpoint, begun.settings, is_whole)
    run, state = open_run(config, processes, order, model_config)
    try:
        if processes.is_first:
            copy_beside(begun.checkpoint, run, is_whole)
        if state.step:
            load_trained(run, state, begun.trained)
    except BaseException:
        run.close()
        raise
    return run, state


def make_cache(config: TrainingConfig, begun: Begun) -> PictureCache | None:
    """Return what keeps embeddings, where those of a picture never change."""
    varies = trains_image_part(begun.trained) or config.crop < 1 or config.flip
    # ZeRO 3 gathers weights in the engine's own pass, and for all processes at once.
    if varies or config.zero_stage == 3:
        return None
    return PictureCache(begun.network, config.cache_pictures * 1e9)


def collect_saved(config: TrainingConfig, processes: Processes, begun: Begun) -> dict[str, torch.Tensor]:
    """Return what a checkpoint holds."""
    tensors: dict[str, torch.Tensor] = dict(begun.trained)
    if config.save_full:
        tensors = dict(begun.network.state_dict(keep_vars=True))
    return collect(tensors, begun.dtype if config.full or config.save_full else None, processes)
