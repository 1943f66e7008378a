"""Train visualglm-tiny on scenes and questions that are generated on the fly.

    python -m tiny.train --out first
    python -m tiny.train --start first --out second --steps 500 --warm_up 30 --lr 3e-4 --images 16 --questions 4

With `--start`, the second stage: the mean image embedding is trained to equal a low-resolution version of the image,
and the language model's hidden states to predict one, while the ViT is frozen.
Resumes from `--state` if that file exists. Finally writes the model in the Hugging Face format.
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
from tiny.questions import tokenizer_corpus
from tiny.training.data import IMAGE_SIZE, BatchDataset, make_loader
from tiny.training.encoding import BatchLayout, plan_bucket_lengths
from tiny.training.network import IMAGE_LENGTH, PATCH, TrainingModel, build
from tiny.training.step import LOSS_WEIGHTS, SECOND_STAGE_LOSS_WEIGHTS, TrainingStep, make_optimizer
from tiny.training.tokenizer import train_tokenizer

VOCABULARY_SIZE = 1500
VOCABULARY_TEXTS = 60_000
SAMPLING_KEYS = ("max_length", "top_p", "top_k", "temperature")
# 1.2 is no more accurate, and suppresses repeated tokens that a fine-tune has learned; see benchmarks/notes.md.
REPETITION_PENALTY = 1.0


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to 1 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def ensure_tokenizer(directory: Path, seed: int) -> None:
    """Train a tokenizer in `directory` unless it has one."""
    if not (directory / VOCABULARY_NAME).is_file():
        train_tokenizer(tokenizer_corpus(np.random.default_rng(seed), VOCABULARY_TEXTS), directory, VOCABULARY_SIZE)


def start_from_model(start: str, directory: Path, seed: int) -> tuple[VisualGLMModel, dict[str, Any]]:
    """Load a trained network and freeze its ViT; return it with its configuration. Copies its tokenizer."""
    checkpoint = open_checkpoint(start)
    directory.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(checkpoint, directory)
    network, config = build(directory, seed)
    load_tensors(network, checkpoint)
    network.vision_encoder.vit.requires_grad_(False)
    return network, config


def train(model: TrainingModel, options: Namespace, device: torch.device) -> None:
    """Run the remaining steps; save the training state at intervals."""
    optimizer = make_optimizer(model, device)
    first = load_state(options.state, model, optimizer)
    layout = BatchLayout(
        images=options.images,
        questions=options.questions,
        grid=IMAGE_SIZE // PATCH,
        image_length=IMAGE_LENGTH,
        seed=options.seed,
    )
    lengths = plan_bucket_lengths(load_tokenizer(options.out), layout)
    print(f"sequences of {lengths} tokens", flush=True)
    dataset = BatchDataset(options.out, layout, lengths, first, options.steps)
    run_step = TrainingStep(
        model, optimizer, device, LOSS_WEIGHTS if options.start is None else SECOND_STAGE_LOSS_WEIGHTS
    )
    throughput = Throughput(device)
    for step, batch in enumerate(make_loader(dataset, options.workers, device.type == "cuda"), start=first):
        throughput.batch_ready()
        run_step(batch, learning_rate(step, options.steps, options.lr, options.warm_up))
        throughput.step_done()
        if (step + 1) % options.report == 0 or step + 1 == options.steps:
            numbers = {**run_step.report(), **throughput.report(step + 1 - first)}
            rounded = {name: round(value, 4) for name, value in numbers.items()}
            print(json.dumps({"step": step + 1, **rounded}), flush=True)
        if (step + 1) % options.save == 0:
            save_state(options.state, model, optimizer, step + 1)


class Throughput:
    """Measures steps per second, and the share of time spent waiting for batches."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = self.done = time.perf_counter()
        self.data_wait = 0.0

    def batch_ready(self) -> None:
        """Note that the next batch has arrived."""
        self.data_wait += time.perf_counter() - self.done

    def step_done(self) -> None:
        """Note that a step has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # otherwise waiting for the GPU would count as waiting for data
        self.done = time.perf_counter()

    def report(self, steps: int) -> dict[str, float]:
        """Return steps per second and the share of time spent waiting, after `steps` steps."""
        seconds = time.perf_counter() - self.started
        return {"steps_per_s": steps / seconds, "waiting": self.data_wait / seconds}


def load_state(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the training state in `path`; return the number of steps done, 0 if there is no file."""
    if path is None or not path.is_file():
        return 0
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["trainee"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save_state(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the training state atomically."""
    if path is None:
        return
    part = path.with_suffix(".part")
    torch.save({"trainee": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def parse_arguments() -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="output directory")
    parser.add_argument(
        "--start", metavar="NAME_OR_DIR", help="model for the second stage; omit it to train from scratch"
    )
    parser.add_argument("--state", type=Path, help="file of the training state, to resume from and to save to")
    parser.add_argument("--steps", type=int, default=18000)
    parser.add_argument("--images", "--pictures", type=int, default=BatchLayout.images, help="images per step")
    parser.add_argument(
        "--questions", type=int, default=BatchLayout.questions, help="questions per image, an even number"
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--warm_up", type=int, default=300, help="warm-up steps")
    parser.add_argument("--seed", type=int, default=BatchLayout.seed)
    parser.add_argument("--workers", type=int, default=15, help="data loader processes")
    parser.add_argument("--report", type=int, default=200, help="steps between reports")
    parser.add_argument("--save", type=int, default=2000, help="steps between saved states")
    return parser.parse_args()


def main() -> None:
    """Train, and write the model."""
    options = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.start is None:
        ensure_tokenizer(options.out, options.seed)
        network, config = build(options.out, options.seed)
    else:
        network, config = start_from_model(options.start, options.out, options.seed)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    model = TrainingModel(network, direct_appearance=options.start is not None).to(device)
    train(model, options, device)
    # The published minimum length exceeds most of our answers.
    kept = {key: getattr(HF_CHAT, key) for key in SAMPLING_KEYS}
    sampling = {"min_length": 0, **kept, "repetition_penalty": REPETITION_PENALTY}
    end = load_tokenizer(options.out).eos_token_id
    save_hf(options.out, network.state_dict(), config, eos_token_id=end, sampling=sampling)


if __name__ == "__main__":
    sys.exit(run_program(main))
