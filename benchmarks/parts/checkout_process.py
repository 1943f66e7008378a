"""Measures the checkout in the working directory on request; `benchmarks.compare_checkouts` starts one for each.

It also runs in checkouts that lack this file. It therefore imports the code to measure from the working directory, by
current names or by the names of earlier commits.
"""

import argparse
import gc
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

DECODE, TRAIN = "decode", "train"
FLAGS = ("--use_lora", "--lora_rank", "10", "--layer_range", "0")  # measure_training adds layer 14 if the model has it
BACKENDS = ("benchmarks.parts.backends", "benchmarks.parts.subjects")  # the second name is the former one
TRAININGS = ("benchmarks.parts.finetune_ours", "benchmarks.parts.finetune_subject")


def import_first(paths: tuple[str, ...]) -> Any:
    """Import the first of these modules that the checkout has."""
    for path in paths[:-1]:
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
    return importlib.import_module(paths[-1])


def first_attribute(value: Any, *names: str) -> Any:
    """Return the first of these attributes that exists."""
    return getattr(value, next(name for name in names if hasattr(value, name)))


def serve(layers: int, device: str) -> None:
    """Measure the checkout for each line of standard input; write a line of JSON to standard output for each."""
    sys.path[0] = str(Path.cwd())
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the checkout prints must not mix with the replies
    from benchmarks.full_size import Source

    options = argparse.Namespace(device=device or None, from_pretrained="full-size", dtype=None, layers=layers or None)
    source = Source(options)
    engine = first_attribute(import_first(BACKENDS), "EngineBackend", "Engine")(source.sat())
    seed = 0
    for line in sys.stdin:
        seed += 100_000  # so that no image is cached from an earlier measurement
        on_gpu = source.device.type == "cuda"
        numbers = measure_training(source, on_gpu) if line.strip() == TRAIN else measure_decoding(engine, seed, on_gpu)
        replies.write(json.dumps(numbers) + "\n")
        replies.flush()


def measure_decoding(engine: Any, seed: int, on_gpu: bool) -> dict[str, float]:
    """Return the time to first token and the time per token in ms, and tokens/s of concurrent requests."""
    from benchmarks.parts.prompts import SHORT

    measurements = first_attribute(import_first(BACKENDS), "Measurements", "Measured")(engine, 3)
    measurements.seed, tokens = seed, 128 if on_gpu else 4
    numbers = {"first token, ms": measurements.first_ms(SHORT), "token, ms": measurements.token_ms(SHORT, tokens)}
    for count in (8, 32) if on_gpu else (2,):
        _, answers = first_attribute(measurements, "concurrent", "together")(count, tokens)
        numbers[f"{count} requests, tokens/s"] = first_attribute(answers, "steady_rate", "phase")
    return numbers


def measure_training(source: Any, on_gpu: bool) -> dict[str, float]:
    """Return milliseconds of a training step with LoRA on two layers."""
    import torch

    module = import_first(TRAININGS)
    write_dataset = first_attribute(module, "write_dataset", "write_data")
    length, batch, steps = (256, 4, 10) if on_gpu else (64, 1, 2)
    layers = [number for number in ("14",) if int(number) < source.config["num_layers"]]
    with tempfile.TemporaryDirectory() as folder:
        training = first_attribute(module, "OurTraining", "Ours")(
            source, write_dataset(Path(folder)), length, batch, steps, [*FLAGS, *layers]
        )
        milliseconds = first_attribute(training, "run", "measured")().milliseconds()
    del training
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()  # the process of the other checkout needs the memory
    return {f"training step of {batch} x {length} tokens, ms": milliseconds}


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
