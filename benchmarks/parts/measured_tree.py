"""Measure the checkout in the working directory whenever asked; `benchmarks.trees` starts this, one process a checkout.

It must run on checkouts that lack this file, so it imports what it measures from there.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

DECODE, TRAIN = "decode", "train"
FLAGS = ("--use_lora", "--lora_rank", "10", "--layer_range", "0")  # and 14, where there are so many layers


def serve(layers: int, device: str) -> None:
    """Measure the checkout in the working directory: a line of standard input asks, a line of JSON replies."""
    sys.path[0] = str(Path.cwd())
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the checkout prints is not a reply
    from benchmarks.full_size import Source
    from benchmarks.parts.subjects import Engine

    options = argparse.Namespace(device=device or None, from_pretrained="full-size", dtype=None, layers=layers or None)
    source = Source(options)
    engine, seed = Engine(source.sat()), 0
    for line in sys.stdin:
        seed += 100_000  # no picture is known from a measurement before
        on_gpu = source.device.type == "cuda"
        numbers = measure_training(source, on_gpu) if line.strip() == TRAIN else measure_decoding(engine, seed, on_gpu)
        replies.write(json.dumps(numbers) + "\n")
        replies.flush()


def measure_decoding(engine: Any, seed: int, on_gpu: bool) -> dict[str, float]:
    """Return milliseconds of a first token and of each further one, and tokens a second of several requests."""
    from benchmarks.parts.prompts import SHORT
    from benchmarks.parts.subjects import Measured

    measured, tokens = Measured(engine, 3), 128 if on_gpu else 4
    measured.seed = seed
    numbers = {"first token, ms": measured.first_ms(SHORT), "token, ms": measured.token_ms(SHORT, tokens)}
    for count in (8, 32) if on_gpu else (2,):
        numbers[f"{count} requests, tokens/s"] = measured.together(count, tokens)[1].phase
    return numbers


def measure_training(source: Any, on_gpu: bool) -> dict[str, float]:
    """Return milliseconds of a step of LoRA in two layers."""
    import torch

    from benchmarks.parts.finetune_subject import Ours, write_data

    length, batch, steps = (256, 4, 10) if on_gpu else (64, 1, 2)
    layers = [number for number in ("14",) if int(number) < source.config["num_layers"]]
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(source, write_data(Path(folder)), length, batch, steps, [*FLAGS, *layers])
        numbers = {f"training step of {batch} x {length} tokens, ms": ours.measured().milliseconds()}
    del ours
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()  # the other process needs it
    return numbers


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
