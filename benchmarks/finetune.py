"""Fine-tuning: time and memory per step of each method, compared with SAT's own, on one GPU and on several.

python -m benchmarks.finetune                                  the published sizes with random weights, on a GPU
python -m benchmarks.finetune --only 'lora/*' 'cached/*' 'qlora*/*' 'original/*'
python -m benchmarks.finetune --only 'one/*' 'two/*'           started by torchrun, on two GPUs
python -m benchmarks.finetune --only 'zero3*/*'                full fine-tuning on all GPUs
python -m benchmarks.finetune --device cpu                     visualglm-tiny, to try the script
python -m benchmarks.finetune --list

The steps are run by the training loop of finetune_visualglm.py, with its flags, on a file of training data; only the
model may have random weights. Each example has exactly --length tokens, most of them in the answer. LoRA has rank 10
and adapts layers 0 and 14 (0 and the middle one of a smaller model), unless a row says otherwise.
    lora, fp16      new images in every step, in bfloat16 and in float16
    again           the same with activation checkpointing (--checkpoint-activations)
    cached          with cached image embeddings
    all             LoRA on all layers, batch size 1; qlora, qlora-again: the same with 4-bit base weights
    ptuning         128 prefix keys and values in each layer
    original        SAT's LoRA, attention, activation checkpointing and loss on all logits, on the same examples;
                    without dropout and deepspeed, which favors it
    one, two, four  data parallel processes with ZeRO 1 and 2, new images in every step
    zero3           full fine-tuning on all GPUs; zero3-saved: save a small model, load it in one process
A ratio of 1 or more meets the target. The targets are for H200 GPUs with the published sizes.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import FULL_SIZE, Source, add_model_arguments
from benchmarks.parts.finetune_distributed import DistributedRunner, TrainingJob
from benchmarks.parts.finetune_ours import OurTraining, write_dataset
from benchmarks.parts.finetune_sat import SatTraining
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.table import (
    Comparison,
    Row,
    Stage,
    Target,
    add_table_arguments,
    at_least,
    at_most,
    run_table,
)
from finetune.data import ChatDataset
from finetune.distributed import DistributedContext
from finetune.evaluation import held_out_loss
from finetune.forward import AnswerLoss
from model import load_sat
from model.command_line import ArgumentParser, run_program

RANK, BATCH = 10, 4
NEW_IMAGES = ["--cache-images", "0"]
# On H200s at full size, by "stage/row".
TARGETS: dict[str, Target] = {
    "lora/step": at_most(100),
    "lora/memory": at_most(22),
    "fp16/step": at_most(100),
    "fp16/memory": at_most(22),
    "cached/step": at_most(85),
    "qlora/memory": at_most(8.5),
}
STEP = Row("step", "step time, ms", methodcaller("step_ms"))
GIB = Row("memory", "peak memory, GiB", methodcaller("peak_gib"))
GB = Row("memory", "peak memory, GB", methodcaller("peak_gb"))


class Plan:
    """The stages and comparisons for a model source.

    Args:
        source: source of the models.
        options: command-line options.
        folder: folder for the data and the runs.
    """

    def __init__(self, source: Source, options: argparse.Namespace, folder: Path) -> None:
        self.source = source
        self.on_gpu = source.device.type == "cuda"
        self.length = options.length or (320 if self.on_gpu else 96)
        self.steps = options.steps
        self.data = write_dataset(folder)
        layers = source.config["num_layers"]
        self.layers = sorted({0, min(14, layers // 2)})
        self.model = ["--device", str(source.device), "--from_pretrained", source.name]
        self.depth = ["--layers", str(options.layers)] if options.layers else []
        self.saved_layers_flags = ["--layers", str(min(options.saved_layers, layers))] if source.is_random else []

    @property
    def two_layers(self) -> list[str]:
        """The flags of LoRA on two layers."""
        return ["--use_lora", "--lora_rank", str(RANK), "--layer_range", *map(str, self.layers)]

    def stages(self) -> list[Stage]:
        """Return all stages."""
        every = ["--use_lora", "--lora_rank", str(RANK)]
        rounded = ["--use_qlora", "--lora_rank", str(RANK)]
        recompute = "--checkpoint-activations"
        low, high = ("--bf16", "--fp16") if self.on_gpu else ("--fp16", "--bf16")  # on a CPU, fp16 means float32
        return [
            self.ours("lora", BATCH, [*self.two_layers, *NEW_IMAGES, low]),
            self.ours("fp16" if self.on_gpu else "bf16", BATCH, [*self.two_layers, *NEW_IMAGES, high]),
            self.ours("again", BATCH, [*self.two_layers, *NEW_IMAGES, low, recompute]),
            self.ours("cached", BATCH, [*self.two_layers, low]),
            self.ours("all", 1, [*every, *NEW_IMAGES, low]),
            self.ours("qlora", 1, [*rounded, *NEW_IMAGES, low], GB),
            self.ours("qlora-again", 1, [*rounded, *NEW_IMAGES, low, recompute], GB),
            self.ours("ptuning", BATCH, ["--use_ptuning", *NEW_IMAGES, low]),
            self.stage("original", self.original, [STEP, GIB]),
            *(self.launched(name, count) for name, count in (("one", 1), ("two", 2), ("four", 4))),
            self.full_stage(),
            self.stage(
                "zero3-saved",
                self.train_and_save,
                [Row("load", "full checkpoint loaded in one process, s", load_saved)],
            ),
        ]

    def stage(self, name: str, make: Callable[[], Any], rows: list[Row]) -> Stage:
        """Return a stage with its targets; memory is measured on GPUs only."""
        kept = [row for row in rows if self.on_gpu or row.name != "memory"]
        if self.on_gpu and self.source.is_full_size and self.length == 320:
            kept = [Row(row.name, row.description, row.measure, TARGETS.get(f"{name}/{row.name}")) for row in kept]
        return Stage(name, make, kept)

    def ours(self, name: str, batch_size: int, flags: list[str], memory: Row = GIB) -> Stage:
        """Return the stage of a training run with these flags."""
        make = partial(OurTraining, self.source, self.data, self.length, batch_size, self.steps, flags)
        return self.stage(name, make, [STEP, memory])

    def original(self) -> SatTraining:
        """Set up SAT's training."""
        return SatTraining(self.source, self.data, self.length, BATCH, RANK, self.layers, self.steps)

    def launched(self, name: str, count: int) -> Stage:
        """Return the stage of data parallel training with `count` processes."""
        if count == 1:
            return self.stage(name, partial(self.processes, 1), [Row("plain", "samples/s", partial(self.rate, 0))])
        rows = [Row(f"zero-{n}", f"ZeRO {n}, samples/s", partial(self.rate, n)) for n in (1, 2)]
        return self.stage(name, partial(self.processes, count), rows)

    def processes(self, count: int) -> DistributedRunner:
        """Return a runner of `count` processes.

        Raises:
            RuntimeError: there are fewer GPUs.
        """
        if self.on_gpu and torch.cuda.device_count() < count:
            raise RuntimeError(f"{count} GPUs are needed, {torch.cuda.device_count()} are available")
        return DistributedRunner([*self.model, *self.depth], count)

    def launch(self, launched: DistributedRunner, flags: list[str], **changes: Any) -> dict[str, Any]:
        """Run a training job in several processes."""
        given = {"length": self.length, "batch_size": BATCH, "steps": self.steps, **changes}
        return launched.run(TrainingJob(data=str(self.data), flags=flags, **given))

    def rate(self, zero: int, launched: DistributedRunner) -> tuple[float, str]:
        """Return samples/s, with step time and memory."""
        flags = [*self.two_layers, *NEW_IMAGES, *(["--zero-stage", str(zero)] if zero else [])]
        found = self.launch(launched, flags)
        return found["samples_per_s"], f"{found['step_ms']:.4g} ms per step, {found['peak_gib']:.4g} GiB per GPU"

    def full_stage(self) -> Stage:
        """Return the stage of full fine-tuning on all GPUs."""
        flags = ["--full", "--zero-stage", "3", "--lr", "1e-5"]

        def step(launched: DistributedRunner) -> tuple[float, str]:
            found = self.launch(launched, flags)
            return found["step_ms"], f"{launched.processes} processes, {found['peak_gib']:.4g} GiB per GPU"

        return self.stage(
            "zero3",
            lambda: self.processes(self.process_count()),
            [Row("step", "full fine-tuning, step time, ms", step)],
        )

    def process_count(self) -> int:
        """Return the number of processes for ZeRO 3: all GPUs, or two on a CPU."""
        return max(1, torch.cuda.device_count()) if self.on_gpu else 2

    def train_and_save(self) -> "SavedRun":
        """Train and save a full model in several processes; one with random weights is reduced to a few layers."""
        flags = ["--full", "--zero-stage", "3", "--lr", "1e-5", "--valid-data", str(self.data), "--save-interval", "99"]
        launched = DistributedRunner([*self.model, *(self.saved_layers_flags or self.depth)], self.process_count())
        found = self.launch(launched, [*flags, "--eval-interval", "2"], steps=2, runs_to_end=True)
        return SavedRun(Path(found["run"]), found["loss"], self)

    def comparisons(self) -> list[Comparison]:
        """Return the comparisons within a run."""
        several = self.on_gpu and self.source.is_full_size
        two, four, half = (at_least(1.85), at_least(3.5), at_least(0.5)) if several else (None, None, None)
        return [
            Comparison("LoRA and the original's", "lora/step", "original/step"),
            Comparison("memory of LoRA and the original's", "lora/memory", "original/memory"),
            Comparison("LoRA with activation checkpointing and the original's", "again/step", "original/step"),
            Comparison("memory of the same", "again/memory", "original/memory"),
            Comparison("cached and new images", "cached/step", "lora/step"),
            Comparison("QLoRA and LoRA on all layers", "qlora/step", "all/step", half),
            Comparison("QLoRA with activation checkpointing and LoRA on all layers", "qlora-again/step", "all/step"),
            *(
                Comparison(
                    f"{name} processes and one, ZeRO {n}", f"{name}/zero-{n}", "one/plain", target, is_time=False
                )
                for name, target in (("two", two), ("four", four))
                for n in (1, 2)
            ),
        ]


class SavedRun:
    """A finished training run of several processes.

    Args:
        run: directory of the run.
        loss: final loss per token on the training data.
        plan: the plan that it belongs to.
    """

    def __init__(self, run: Path, loss: float, plan: Plan) -> None:
        self.run = run
        self.loss = loss
        self.plan = plan

    def loss_of(self, model: Any) -> float:
        """Return the same loss of a model in this process."""
        network, device = model.network, self.plan.source.device
        sizes = {"image_length": network.image_length, "image_size": network.image_size}
        dataset = ChatDataset(self.plan.data, model.tokenizer, max_length=self.plan.length, **sizes)
        module = AnswerLoss(network)
        return held_out_loss(lambda batch: module(batch, None), dataset, BATCH, DistributedContext(0, 1, device))


def load_saved(saved: SavedRun) -> tuple[float, str]:
    """Return the seconds to load a run in this process, after verifying its loss.

    Raises:
        RuntimeError: the loss differs from the final loss of the training.
    """
    device = saved.plan.source.device
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    started = time.perf_counter()
    model = load_sat(saved.run, device=str(device), dtype=dtype)
    spent = time.perf_counter() - started
    loss = saved.loss_of(model)
    if abs(loss - saved.loss) > 0.01 * abs(saved.loss):
        raise RuntimeError(f"the loss is {loss:.4f} in one process, but was {saved.loss:.4f} in training")
    size = sum(file.stat().st_size for file in saved.run.rglob("*.safetensors"))
    return spent, f"{size / 1e9:.3g} GB; loss {loss:.4f}, in training {saved.loss:.4f}"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_table_arguments(parser)
    parser.add_argument("--length", type=min_int(64), help="tokens per example (default 320; 96 on a CPU)")
    parser.add_argument("--steps", type=min_int(2), default=10, help="steps to measure (default %(default)s)")
    help_ = f"layers of {FULL_SIZE} in the ZeRO 3 checkpoint (default %(default)s); its optimizer state is large"
    parser.add_argument("--saved-layers", type=min_int(1), default=2, help=help_)
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print two tables."""
    options = parse_arguments()
    source = Source(options)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(source, options, Path(folder))
        machine = describe_machine(name_gpu(source.device))
        heading = f"{machine}, {source.name}, examples of {plan.length} tokens, LoRA: {shlex.join(plan.two_layers)}"
        run_table(options, heading, plan.stages(), plan.comparisons())


if __name__ == "__main__":
    sys.exit(run_program(main))
