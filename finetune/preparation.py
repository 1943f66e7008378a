"""From the command line to a training that can begin."""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from model.loading import load_tokenizer

from .base import choose_base
from .data import ChatDataset
from .errors import TrainingError
from .forward import AnswerLoss
from .memory import write_memory
from .methods import (
    build_network,
    choose_precision,
    choose_trained,
    describe_trained,
    method_settings,
    open_base,
    trains_image_part,
)
from .optimise import DeepspeedOptimiser, Optimiser, PlainOptimiser, Settings
from .order import Order
from .pictures import PictureCache
from .processes import Processes, join_processes
from .progress import Recorder
from .runs import collect, copy_beside, load_trained, open_run, run_config
from .training import Training


def wants_deepspeed(options: argparse.Namespace) -> bool:
    """Whether deepspeed is to be used: for several processes, ZeRO or offload; a single process needs none of them.

    Raises:
        TrainingError: it is needed, and not installed.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if importlib.util.find_spec("deepspeed") is not None:
        return several or options.zero_stage > 0 or options.offload
    if several or options.offload:
        raise TrainingError("Several processes and --offload need deepspeed. Run: pip install deepspeed")
    return False


def say(processes: Processes, text: str) -> None:
    """Tell the person something, from the first process."""
    if processes.is_first and text:
        print(text, file=sys.stderr, flush=True)


def open_data(options: argparse.Namespace, paths: Sequence[Path], network: Any, tokenizer: Any) -> list[ChatDataset]:
    """Open files of training data for a network."""
    sizes = {"image_length": network.image_length, "image_size": network.image_size}
    length = min(options.max_length, network.max_sequence_length)
    return [ChatDataset(path, tokenizer, max_length=length, on_bad_row=options.on_bad_row, **sizes) for path in paths]


def describe_data(datasets: Sequence[ChatDataset]) -> str:
    """Say what the data holds, and what of it is left out."""
    answers, rows = sum(map(len, datasets)), sum(len(dataset.rows) for dataset in datasets)
    bad = sum(len(dataset.bad_rows) for dataset in datasets)
    return f"Data: {answers} answers to learn in {rows} rows" + (f"; {bad} bad rows are skipped." if bad else ".")


def make_optimiser(
    options: argparse.Namespace, network: Any, trained: dict[str, torch.nn.Parameter], dtype: torch.dtype, deep: bool
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
    return PlainOptimiser(module, trained.values(), settings, mixed=options.full or options.use_ptuning)


def recall(
    options: argparse.Namespace,
    processes: Processes,
    network: Any,
    tokenizer: Any,
    train: Sequence[ChatDataset],
    scratch: tempfile.TemporaryDirectory[str],
) -> list[ChatDataset]:
    """Return what the base says of the pictures, as data to be mixed in; it is asked anew where a run goes on."""
    if not options.remember:
        return []
    file = Path(scratch.name) / "memory.jsonl"
    write_memory(file, network, tokenizer, train, options.remember)
    held = open_data(options, [file], network, tokenizer) if file.is_file() else []
    say(processes, f"Remembered: {sum(map(len, held))} answers of the base are mixed in.")
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


def prepare(options: argparse.Namespace) -> Training:
    """Make everything ready: processes, model, data, optimiser, and the run, new or resumed.

    Raises:
        VisualGLMError: something of it cannot be had.
    """
    deep = wants_deepspeed(options)
    processes = join_processes(options.device, wants_nccl=deep)
    torch.manual_seed(options.seed)
    if options.from_pretrained is None:
        options.from_pretrained, notice = choose_base()
        say(processes, notice)
    checkpoint = open_base(options)
    dtype, notice = choose_precision(options, processes.device, checkpoint.config)
    say(processes, notice)
    settings = method_settings(options, checkpoint.config["num_layers"])
    network = build_network(checkpoint, settings, processes.device, dtype)
    tokenizer = load_tokenizer(checkpoint.path)
    trained = choose_trained(network, options)
    is_whole = options.save_full or len(trained) == sum(1 for _ in network.parameters())
    say(processes, describe_trained(trained, network))
    train, valid = (open_data(options, paths, network, tokenizer) for paths in (options.train_data, options.valid_data))
    say(processes, describe_data(train))
    scratch = tempfile.TemporaryDirectory(prefix="visualglm-")
    remembered = recall(options, processes, network, tokenizer, train, scratch)
    new = sum(map(len, train)) * repeats(train, remembered)
    train = train * repeats(train, remembered) + remembered
    optimiser = make_optimiser(options, network, trained, dtype, deep)
    order = make_order(options, train, processes)
    last = options.train_iters or order.steps(options.epochs)
    options.save_interval = options.save_interval or order.steps(1)
    options.eval_interval = options.eval_interval or order.steps(1)
    saved = dict(network.state_dict(keep_vars=True)) if options.save_full else dict(trained)
    saved_dtype = dtype if options.full or options.save_full else None
    run, state = open_run(options, processes, order, run_config(options, checkpoint, settings, is_whole))
    if processes.is_first:
        copy_beside(checkpoint, run, is_whole)
    if state.step:
        load_trained(run, state, trained)
        optimiser.load(run.folder(state.step))
        say(processes, f"Goes on with {run.path} after step {state.step}.")
    # ZeRO 3 gathers weights in the engine's own pass, and for all processes at once.
    varies = options.crop < 1 or options.flip
    looks_again = trains_image_part(trained) or varies or options.zero_stage == 3
    cache = None if looks_again else PictureCache(network, options.cache_pictures * 1e9)
    return Training(
        options=options,
        processes=processes,
        network=network,
        tokenizer=tokenizer,
        optimiser=optimiser,
        pictures=cache,
        train=ConcatDataset(train) if len(train) > 1 else train[0],
        new=new,
        scratch=scratch,
        valid=valid,
        order=order,
        run=run,
        state=state,
        last=last,
        tensors=lambda: collect(saved, saved_dtype, processes),
        recorder=make_recorder(options, run.path, state.step, last) if processes.is_first else None,
    )
