"""Train visualglm-tiny, on pictures and questions that are drawn as they are needed.

    python -m tiny.train --out first
    python -m tiny.train --start first --out second --steps 500 --warm_up 30 --lr 3e-4 --pictures 16 --questions 4

With `--start` the mean of the image embeddings learns to be what a picture looks like, and the language model's
states learn to tell it, while the ViT stays as it is.
Continues from `--state` where that file exists. Ends by writing the model in the Hugging Face format.
"""

import argparse
import json
import math
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model import HF_CHAT, load_tokenizer
from model.checkpoint import load_tensors, open_checkpoint, save_hf
from model.checkpoint.convert import copy_tokenizer
from model.checkpoint.resolve import VOCABULARY_NAME
from model.command_line import ArgumentParser, run_program
from model.visualglm import VisualGLMModel
from tiny.questions import corpus
from tiny.training.data import PICTURE_SIZE, Batches, load_batches
from tiny.training.network import IMAGE_LENGTH, PATCH, Trainee, build
from tiny.training.rows import Sizes, plan_lengths
from tiny.training.step import FURTHER_WEIGHTS, WEIGHTS, TrainingStep, make_optimizer
from tiny.training.tokenizer import train_tokenizer

VOCABULARY = 1500
VOCABULARY_TEXTS = 60_000
SAMPLING_KEYS = ("max_length", "top_p", "top_k", "temperature")
REPETITION_PENALTY = 1.0  # short answers repeat words, and more lowers none of their mistakes; see benchmarks/notes.md


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Return a linear rise, then half a cosine down to a hundredth."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def ensure_tokenizer(directory: Path, seed: int) -> None:
    """Train a tokenizer in `directory` where there is none yet."""
    if not (directory / VOCABULARY_NAME).is_file():
        train_tokenizer(corpus(np.random.default_rng(seed), VOCABULARY_TEXTS), directory, VOCABULARY)


def begin_from(start: str, directory: Path, seed: int) -> tuple[VisualGLMModel, dict[str, Any]]:
    """Return a trained network, whose ViT will stay as it is, and its configuration; copy its tokenizer."""
    checkpoint = open_checkpoint(start)
    directory.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(checkpoint, directory)
    network, config = build(directory, seed)
    load_tensors(network, checkpoint)
    network.vision_encoder.vit.requires_grad_(False)
    return network, config


def train(trainee: Trainee, options: Namespace, device: torch.device) -> None:
    """Run the remaining steps, keeping the state in a file."""
    optimizer = make_optimizer(trainee, device)
    first = load_state(options.state, trainee, optimizer)
    sizes = Sizes(
        pictures=options.pictures,
        questions=options.questions,
        grid=PICTURE_SIZE // PATCH,
        image_length=IMAGE_LENGTH,
        seed=options.seed,
    )
    lengths = plan_lengths(load_tokenizer(options.out), sizes)
    print(f"sequences of {lengths} tokens", flush=True)
    dataset = Batches(options.out, sizes, lengths, first, options.steps)
    run_step = TrainingStep(trainee, optimizer, device, WEIGHTS if options.start is None else FURTHER_WEIGHTS)
    clock = Clock(device)
    for step, batch in enumerate(load_batches(dataset, options.workers, device.type == "cuda"), start=first):
        clock.data_came()
        run_step(batch, learning_rate(step, options.steps, options.lr, options.warm_up))
        clock.step_done()
        if (step + 1) % options.report == 0 or step + 1 == options.steps:
            numbers = {**run_step.report(), **clock.report(step + 1 - first)}
            rounded = {name: round(value, 4) for name, value in numbers.items()}
            print(json.dumps({"step": step + 1, **rounded}), flush=True)
        if (step + 1) % options.save == 0:
            save_state(options.state, trainee, optimizer, step + 1)


class Clock:
    """How fast training goes, and how much of its time is spent waiting for pictures."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = self.done = time.perf_counter()
        self.waited = 0.0

    def data_came(self) -> None:
        self.waited += time.perf_counter() - self.done

    def step_done(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # else the wait for the GPU would be taken for one for pictures
        self.done = time.perf_counter()

    def report(self, steps: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        return {"steps_per_s": steps / seconds, "waiting": self.waited / seconds}


def load_state(path: Path | None, trainee: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up the state in `path`; return the number of steps done."""
    if path is None or not path.is_file():
        return 0
    state = torch.load(path, map_location=next(trainee.parameters()).device, weights_only=True)
    trainee.load_state_dict(state["trainee"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save_state(path: Path | None, trainee: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write everything needed to go on from here, whole or not at all."""
    if path is None:
        return
    part = path.with_suffix(".part")
    torch.save({"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def parse_arguments() -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the model")
    parser.add_argument("--start", metavar="NAME_OR_DIR", help="model to go on from; none for a new one")
    parser.add_argument("--state", type=Path, help="file to continue from and to keep the state in")
    parser.add_argument("--steps", type=int, default=18000)
    parser.add_argument("--pictures", type=int, default=Sizes.pictures, help="pictures a step")
    parser.add_argument("--questions", type=int, default=Sizes.questions, help="questions a picture, an even number")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--warm_up", type=int, default=300, help="steps in which the rate rises")
    parser.add_argument("--seed", type=int, default=Sizes.seed)
    parser.add_argument("--workers", type=int, default=15, help="processes that draw")
    parser.add_argument("--report", type=int, default=200, help="steps between reports")
    parser.add_argument("--save", type=int, default=2000, help="steps between states kept")
    return parser.parse_args()


def main() -> None:
    """Train, and write the model."""
    options = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.start is None:
        ensure_tokenizer(options.out, options.seed)
        network, config = build(options.out, options.seed)
    else:
        network, config = begin_from(options.start, options.out, options.seed)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    trainee = Trainee(network, is_bound=options.start is not None).to(device)
    train(trainee, options, device)
    # The published minimum length is beyond most of our answers.
    kept = {key: getattr(HF_CHAT, key) for key in SAMPLING_KEYS}
    sampling = {"min_length": 0, **kept, "repetition_penalty": REPETITION_PENALTY}
    end = load_tokenizer(options.out).eos_token_id
    save_hf(options.out, network.state_dict(), config, eos_token_id=end, sampling=sampling)


if __name__ == "__main__":
    sys.exit(run_program(main))
