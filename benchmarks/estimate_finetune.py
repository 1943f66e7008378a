"""What a training step at the published size computes and keeps, reckoned without a GPU: on tensors without data.

python -m benchmarks.estimate_finetune

Operations are counted by torch.utils.flop_counter, matrix products alone, two for a multiplication and an addition;
neither the language model's attention nor, on the way forth, its 4-bit layers are seen by it. What is kept is what
autograd holds from the way forth to the way back, weights apart; of attention that is what the GPU's kernels keep.
The most is what lies in memory beside weights at the moment when most does, the pictures' embedding apart.
Weights are what lies in memory all the time, the optimiser's float32 copies, moments and gradients included. A GPU
needs some 0.3 GB beyond the last two columns, for its libraries and for what embeds pictures.
"""

import shlex
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size import full_size_config, random_checkpoint
from benchmarks.parts.prompts import OPENING, ORDINARY_IDS
from benchmarks.parts.table import show
from finetune.arguments import parse_arguments
from finetune.batches import Batch, collate
from finetune.encoding import IGNORE_INDEX, Example
from finetune.forward import AnswerLoss
from finetune.methods import build_network, choose_trained, method_settings
from model.checkpoint import Checkpoint
from model.command_line import run_program
from model.quantization.nf4 import Nf4Linear
from model.tensors import LazyTensors

META, DTYPE = torch.device("meta"), torch.bfloat16
LENGTH, ANSWER = 320, 270
LORA_ON_TWO_LAYERS = "--use_lora --layer_range 0 14"
CASES = (
    (4, LORA_ON_TWO_LAYERS),
    (4, f"{LORA_ON_TWO_LAYERS} --checkpoint-activations"),
    (1, "--use_lora"),
    (1, "--use_qlora"),
    (1, "--use_qlora --checkpoint-activations"),
    (4, "--use_ptuning"),
)
TRAINING_BYTES_PER_WEIGHT = 4 * 4  # bytes for each number: itself, its gradient and two moments


class FlashAttentionStub(torch.autograd.Function):
    """Keeps what a GPU's attention keeps, and computes nothing."""

    @staticmethod
    def forward(
        context: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        batch, heads, length, width = q.shape
        out = q.new_empty(batch, length, heads, width).transpose(1, 2)
        context.save_for_backward(q, k, v, mask, out, q.new_empty(batch, heads, length, dtype=torch.float32))
        return out

    @staticmethod
    def backward(context: Any, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(torch.empty_like(tensor) for tensor in context.saved_tensors[:3]), None


def stub_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None, **_: Any) -> torch.Tensor:
    """Stand for scaled_dot_product_attention."""
    return FlashAttentionStub.apply(q, k, v, attn_mask)  # type: ignore[no-any-return]


def meta_checkpoint() -> Checkpoint:
    """Return a model of the published sizes without data."""
    drawn = random_checkpoint(full_size_config(), META, DTYPE)
    loaders = {
        name: partial(torch.empty, *load.args[1:2], device=META, dtype=DTYPE) for name, load in loaders_in(drawn)
    }
    return replace(drawn, stored_tensors=LazyTensors(loaders))


def loaders_in(checkpoint: Checkpoint) -> list[tuple[str, Any]]:
    """Return what draws each tensor of `random_checkpoint`."""
    assert isinstance(checkpoint.stored_tensors, LazyTensors)
    return list(checkpoint.stored_tensors.loaders.items())


def make_batch(count: int, image_length: int, image_size: int) -> Batch:
    """Return rows of random words with pictures."""
    words = torch.randint(ORDINARY_IDS.start, ORDINARY_IDS.stop, (count, LENGTH)).tolist()
    pixels, context = torch.zeros(3, image_size, image_size), LENGTH - ANSWER - 1
    return collate(
        [
            Example(
                ids, [IGNORE_INDEX] * (LENGTH - ANSWER) + ids[-ANSWER:], OPENING, Path(str(n)), context, n, 0, pixels
            )
            for n, ids in enumerate(words)
        ]
    )


@contextmanager
def collect_saved_tensors(excluded: set[int]) -> Iterator[dict[int, Any]]:
    """Collect the storages that autograd keeps in the block, by their places, but for those already `excluded`."""
    saved: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in excluded:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made in the block, and are not yet gone.

    Args:
        excluded: places of storages that do not count.

    Attributes:
        peak: bytes when there were most.
    """

    def __init__(self, excluded: set[int]) -> None:
        super().__init__()
        self.known = set(excluded)
        self.current = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self.track(tensor.untyped_storage())
        self.peak = max(self.peak, self.current)
        return made

    def track(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is gone, if it is new."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.current += size
            weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        """Count a storage no more."""
        self.known.discard(key)
        self.current -= size


def weight_and_optimizer_bytes(network: Any) -> int:
    """Return the bytes of weights, and of the optimiser for those that are trained."""
    rounded = [layer for layer in network.modules() if isinstance(layer, Nf4Linear)]
    return sum(
        weight.nbytes + TRAINING_BYTES_PER_WEIGHT * weight.numel() * weight.requires_grad
        for weight in network.parameters()
    ) + sum(layer.packed.nbytes + layer.scales.nbytes for layer in rounded)


def estimate(checkpoint: Checkpoint, count: int, flags: str) -> str:
    """Return the row of one case."""
    options = parse_arguments([*shlex.split(flags), "--train-data", "none"])
    settings = method_settings(options, checkpoint.config["num_layers"])
    network = build_network(checkpoint, settings, META, DTYPE)
    choose_trained(network, options)
    module = AnswerLoss(network, options.checkpoint_activations)
    batch = make_batch(count, network.image_length, network.image_size)
    with patch.object(F, "scaled_dot_product_attention", stub_attention):
        counts = count_flops(module, batch)
        sizes = (*measure_memory(module, batch), weight_and_optimizer_bytes(network))
    numbers = [count / 1e12 for count in counts] + [size / 1e9 for size in sizes]
    return f"| {count} x {LENGTH} | `{flags}` | {' | '.join(f'{number:.2f}' for number in numbers)} |"


def count_flops(module: AnswerLoss, batch: Batch) -> tuple[int, int]:
    """Return the operations of a step: on the way forth, and in all."""
    with FlopCounterMode(display=False) as counter:
        loss = module(batch, None)
        forward_flops = counter.get_total_flops()
        loss.backward()
    module.zero_grad(set_to_none=True)
    return forward_flops, counter.get_total_flops()


def measure_memory(module: AnswerLoss, batch: Batch) -> tuple[int, int]:
    """Return the bytes that a step keeps for its way back, and the most that lies in memory beside weights."""
    network, images = module.network, module.encode_images(batch)
    rounded = [layer for layer in network.modules() if isinstance(layer, Nf4Linear)]
    weights = [*network.parameters(), *(tensor for layer in rounded for tensor in (layer.packed, layer.scales))]
    excluded = {weight.untyped_storage()._cdata for weight in weights}
    with LiveMemory(excluded) as live:
        with collect_saved_tensors(excluded) as saved:
            loss = module(batch, images)
        size = sum(storage.nbytes() for storage in saved.values())
        saved.clear()  # or nothing of it could go
        loss.backward()
    return size, live.peak


def main() -> None:
    """Print a row for each case."""
    show("| rows | flags | TFLOP forth | TFLOP in all | kept, GB | the most, GB | weights, GB |\n" + "|---" * 7 + "|")
    checkpoint = meta_checkpoint()
    for count, flags in CASES:
        show(estimate(checkpoint, count, flags))


if __name__ == "__main__":
    sys.exit(run_program(main))
