"""From the command line to a training that can begin."""

import argparse
import atexit
import importlib.util
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from .data import ChatDataset, split_rows
from .deepspeed_optimizer import DeepspeedOptimiser
from .errors import TrainingError
from .forward import AnswerLoss
from .memory import write_memory
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
from .optimizer import Optimiser, PlainOptimiser, Settings
from .order import Order
from .pictures import PictureCache
from .processes import Processes, count_processes, is_launched, join_processes, say
from .progress import Recorder
from .resuming import open_run
from .rows import Rows, describe_unread, read_rows
from .runs import collect, copy_beside, load_trained, run_config
from .stopping import StopRequest
from .training import Training
from .training_state import State


def wants_deepspeed(options: argparse.Namespace) -> bool:
    """Whether deepspeed is to be used: for several processes, ZeRO or offload; a single process needs none of them.

    Raises:
        TrainingError: it is needed, and not installed.
    """
    several = count_processes() > 1
    if importlib.util.find_spec("deepspeed") is not None:
        return several or options.zero_stage > 0 or options.offload
    if several or options.offload:
        raise TrainingError("Several processes and --offload need deepspeed. Run: pip install deepspeed")
    return False


def longest_example(options: argparse.Namespace, network: Network) -> int:
    """Return the most tokens of an example for a network."""
    return min(int(options.max_length), int(network.max_sequence_length))


def open_data(
    options: argparse.Namespace, files: Sequence[Rows], network: Network, tokenizer: Tokenizer
) -> list[ChatDataset]:
    """Open files of training data for a network."""
    sizes: dict[str, Any] = {"image_length": network.image_length, "image_size": network.image_size}
    length = longest_example(options, network)
    return [ChatDataset(rows, tokenizer, max_length=length, on_bad_row=options.on_bad_row, **sizes) for rows in files]


def describe_data(datasets: Sequence[ChatDataset]) -> str:
    """Say what the data holds, and what of it is left out."""
    answers, rows = sum(map(len, datasets)), sum(len(dataset.rows) for dataset in datasets)
    bad = sum(len(dataset.bad_rows) for dataset in datasets)
    unread = sum((dataset.unread for dataset in datasets), Counter())
    skipped = f"; {bad} bad rows are skipped" if bad else ""
    keys = f" Keys that are not read: {describe_unread(unread)}." if unread else ""
    return f"Data: {answers} answers to learn in {rows} rows{skipped}.{keys}"


def make_optimiser(
    options: argparse.Namespace,
    network: VisualGLMModel,
    trained: dict[str, torch.nn.Parameter],
    dtype: torch.dtype,
    deep: bool,
) -> Optimiser:
    """Return what computes losses and changes the network."""
    settings = Settings(
        options.weight_decay,
        options.clip_grad,
        dtype,
        options.batch_size,
        options.gradient_accumulation_steps,
        options.zero_stage,
        options.offload,
    )
    module = AnswerLoss(network, options.checkpoint_activations, always_looks=options.zero_stage == 3)
    if deep:
        return DeepspeedOptimiser(module, trained.values(), settings)
    return PlainOptimiser(module, trained.values(), settings, mixed=options.full)


def recall(
    options: argparse.Namespace,
    processes: Processes,
    network: VisualGLMModel,
    tokenizer: Tokenizer,
    train: Sequence[ChatDataset],
) -> list[ChatDataset]:
    """Return what the base says of the pictures, as data to be mixed in; it is asked anew where a run goes on."""
    if not options.remember:
        return []
    folder = Path(tempfile.mkdtemp(prefix="visualglm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the data is read as long as the program runs
    file = folder / "memory.jsonl"
    write_memory(file, network, tokenizer, train, options.remember, options.seed)
    held = open_data(options, [read_rows(file)], network, tokenizer) if file.is_file() else []
    say(processes, f"Remembered: {sum(map(len, held))} answers of the base.")
    return held


def repeats(train: Sequence[ChatDataset], remembered: Sequence[ChatDataset]) -> int:
    """Return how often what is new comes for what is remembered to come once: so often that it is about as much."""
    return max(1, round(sum(map(len, remembered)) / sum(map(len, train))))


def make_order(options: argparse.Namespace, datasets: Sequence[ChatDataset], processes: Processes) -> Order:
    """Return the order of the examples."""
    sizes = [size for dataset in datasets for size in dataset.sizes]
    return Order(
        sum(map(len, datasets)),
        options.batch_size,
        options.gradient_accumulation_steps,
        processes.count,
        processes.rank,
        options.seed,
        sizes if options.group_by_length else None,
    )


def make_recorder(options: argparse.Namespace, run: Path, first: int, last: int) -> Recorder:
    """Return what records the training."""
    wandb = {"project": options.wandb_project_name, "name": run.name, "config": vars(options)}
    return Recorder(run, first, last, options.summary_dir, wandb if options.wandb else None)


@dataclass(frozen=True)
class Begun:
    """The model to train.

    Attributes:
        checkpoint: of its base.
        settings: what is added, as entries of model_config.json.
        network, tokenizer: the model.
        trained: what of it is trained, by name.
        dtype: that it computes in.
    """

    checkpoint: Checkpoint
    settings: dict[str, Any]
    network: FineTuneVisualGLMModel
    tokenizer: Tokenizer
    trained: dict[str, torch.nn.Parameter]
    dtype: torch.dtype


Open = Callable[[argparse.Namespace], Checkpoint]


def begin(options: argparse.Namespace, processes: Processes, open_model: Open = open_base) -> Begun:
    """Load the base that `open_model` opens, add what is to be trained, and say so."""
    if options.from_pretrained is None:
        options.from_pretrained, notice = choose_base()
        say(processes, notice)
    checkpoint = open_model(options)
    dtype, notice = choose_precision(options, processes.device, checkpoint.config)
    say(processes, notice)
    settings = method_settings(options, checkpoint.config["num_layers"])
    network = build_network(checkpoint, settings, processes.device, dtype)
    trained = choose_trained(network, options)
    say(processes, describe_trained(trained, network))
    return Begun(checkpoint, settings, network, load_tokenizer(checkpoint.path), trained, dtype)


def prepare(options: argparse.Namespace, open_model: Open = open_base) -> Training:
    """Make everything ready: processes, model, data, optimiser, and the run, new or resumed.

    Args:
        options: of the command line.
        open_model: opens the model to begin from.

    Raises:
        VisualGLMError: something of it cannot be had.
    """
    # Before anything that takes time: a path may be misspelt.
    train_rows, valid_rows = ([read_rows(path) for path in paths] for paths in (options.train_data, options.valid_data))
    held_rows: list[Rows] = []
    if options.valid_share:
        train_rows, held_rows = split_rows(train_rows, options.valid_share, options.seed)
    deep = wants_deepspeed(options)
    processes = join_processes(options.device, wants_nccl=deep)
    torch.manual_seed(options.seed)
    begun = begin(options, processes, open_model)
    network, tokenizer = begun.network, begun.tokenizer
    train, valid = (open_data(options, files, network, tokenizer) for files in (train_rows, [*held_rows, *valid_rows]))
    say(processes, describe_data(train))
    if held_rows:
        say(processes, f"Held back for the evaluation: {sum(map(len, valid[: len(held_rows)]))} answers.")
    remembered = recall(options, processes, network, tokenizer, train)
    train = train * repeats(train, remembered)
    order = make_order(options, train + remembered, processes)
    options.save_interval = options.save_interval or order.steps(1)
    options.eval_interval = options.eval_interval or order.steps(1)
    size = most_bytes(options.batch_size, longest_example(options, network), network.image_size)
    options.num_workers, notice = choose_workers(options.num_workers, size, order.batches)
    say(processes, notice)
    run, state = start_run(options, processes, begun, order)
    try:
        optimiser = make_optimiser(options, network, begun.trained, begun.dtype, deep)
        if state.step:
            load_optimiser(optimiser, run, state)
            say(processes, f"Goes on with {run.path} after step {state.step}.")
        last = options.train_iters or order.steps(options.epochs)
        recorder = make_recorder(options, run.path, state.step, last) if processes.is_first else None
    except BaseException:
        run.close()
        raise
    return Training(
        options=options,
        processes=processes,
        network=network,
        tokenizer=tokenizer,
        optimiser=optimiser,
        pictures=make_cache(options, begun),
        train=ConcatDataset(train + remembered),
        new=sum(map(len, train)),
        valid=valid,
        order=order,
        run=run,
        state=state,
        last=last,
        tensors=partial(collect_saved, options, processes, begun),
        recorder=recorder,
        stop=StopRequest(processes.is_first, is_launched()),
    )


def load_optimiser(optimiser: Optimiser, run: Run, state: State) -> None:
    """Go on from the optimizer of a checkpoint.

    Raises:
        TrainingError: the checkpoint has another optimizer.
    """
    folder = run.folder(state.step)
    if not (folder / optimiser.saved_as).exists():
        raise TrainingError(
            f"{folder} has no {optimiser.saved_as}: it was written with deepspeed and is read without, or "
            "conversely. Resume with the same command that began the run."
        )
    optimiser.load(folder)


def start_run(options: argparse.Namespace, processes: Processes, begun: Begun, order: Order) -> tuple[Run, State]:
    """Open the run's directory; give the network what a resumed one has kept, before ZeRO 3 cuts it up."""
    is_whole = options.save_full or len(begun.trained) == sum(1 for _ in begun.network.parameters())
    config = run_config(options, begun.checkpoint, begun.settings, is_whole)
    run, state = open_run(options, processes, order, config)
    try:
        if processes.is_first:
            copy_beside(begun.checkpoint, run, is_whole)
        if state.step:
            load_trained(run, state, begun.trained)
    except BaseException:
        run.close()
        raise
    return run, state


def make_cache(options: argparse.Namespace, begun: Begun) -> PictureCache | None:
    """Return what keeps embeddings, where those of a picture never change."""
    varies = trains_image_part(begun.trained) or options.crop < 1 or options.flip
    # ZeRO 3 gathers weights in the engine's own pass, and for all processes at once.
    if varies or options.zero_stage == 3:
        return None
    return PictureCache(begun.network, options.cache_pictures * 1e9)


def collect_saved(options: argparse.Namespace, processes: Processes, begun: Begun) -> dict[str, torch.Tensor]:
    """Return what a checkpoint holds."""
    tensors: dict[str, torch.Tensor] = dict(begun.trained)
    if options.save_full:
        tensors = dict(begun.network.state_dict(keep_vars=True))
    return collect(tensors, begun.dtype if options.full or options.save_full else None, processes)
