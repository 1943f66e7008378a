"""Estimates FLOPs and memory of a training step at the published sizes, without a GPU, on the meta device.

python -m benchmarks.estimate_finetune

Operations are matrix products counted by torch.utils.flop_counter, two per multiply-add. It sees neither the language
model's attention nor, in the forward pass, its 4-bit layers. "Saved" is what autograd saves for the backward pass,
without weights; attention saves what the GPU kernels save. "Peak" is the largest memory at any time besides the
weights, without the image encoder. "Weights" is permanent memory, with the optimizer's float32 copies, moments and
gradients. A GPU needs about 0.3 GB more than the sum of the last two columns, for its libraries and the image encoder.
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
TRAINING_BYTES_PER_WEIGHT = 4 * 4  # float32: weight, gradient and two moments


class FlashAttentionStub(torch.autograd.Function):
    """Saves the tensors that a GPU's attention saves, and computes nothing."""

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
    """Replace scaled_dot_product_attention."""
    return FlashAttentionStub.apply(q, k, v, attn_mask)  # type: ignore[no-any-return]


def meta_checkpoint() -> Checkpoint:
    """Return a checkpoint of the published sizes on the meta device."""
    drawn = random_checkpoint(full_size_config(), META, DTYPE)
    loaders = {
        name: partial(torch.empty, *load.args[1:2], device=META, dtype=DTYPE) for name, load in loaders_in(drawn)
    }
    return replace(drawn, stored_tensors=LazyTensors(loaders))


def loaders_in(checkpoint: Checkpoint) -> list[tuple[str, Any]]:
    """Return the loader of each tensor of `random_checkpoint`."""
    assert isinstance(checkpoint.stored_tensors, LazyTensors)
    return list(checkpoint.stored_tensors.loaders.items())


def make_batch(count: int, image_length: int, image_size: int) -> Batch:
    """Return examples of random tokens with images."""
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
    """Collect the storages that autograd saves in the block, by id, except the `excluded` ones."""
    saved: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in excluded:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are allocated in the block and still alive.

    Args:
        excluded: ids of storages that do not count.

    Attributes:
        peak: maximum number of bytes.
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
        """Count a new storage until it is freed."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.current += size
            weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        """Stop counting a storage."""
        self.known.discard(key)
        self.current -= size


def weight_and_optimizer_bytes(network: Any) -> int:
    """Return the bytes of the weights, and of the optimizer for the trained ones."""
    quantized = [layer for layer in network.modules() if isinstance(layer, Nf4Linear)]
    return sum(
        weight.nbytes + TRAINING_BYTES_PER_WEIGHT * weight.numel() * weight.requires_grad
        for weight in network.parameters()
    ) + sum(layer.packed.nbytes + layer.scales.nbytes for layer in quantized)


def estimate(checkpoint: Checkpoint, count: int, flags: str) -> str:
    """Return the table row of one case."""
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
    """Return the operations of the forward pass, and of the step."""
    with FlopCounterMode(display=False) as counter:
        loss = module(batch, None)
        forward_flops = counter.get_total_flops()
        loss.backward()
    module.zero_grad(set_to_none=True)
    return forward_flops, counter.get_total_flops()


def measure_memory(module: AnswerLoss, batch: Batch) -> tuple[int, int]:
    """Return the bytes saved for the backward pass, and the peak memory besides the weights."""
    network, images = module.network, module.encode_images(batch)
    quantized = [layer for layer in network.modules() if isinstance(layer, Nf4Linear)]
    weights = [*network.parameters(), *(tensor for layer in quantized for tensor in (layer.packed, layer.scales))]
    excluded = {weight.untyped_storage()._cdata for weight in weights}
    with LiveMemory(excluded) as live:
        with collect_saved_tensors(excluded) as saved:
            loss = module(batch, images)
        size = sum(storage.nbytes() for storage in saved.values())
        saved.clear()  # otherwise none of them could be freed
        loss.backward()
    return size, live.peak


def main() -> None:
    """Print a row for each case."""
    show("| examples | flags | forward TFLOP | step TFLOP | saved, GB | peak, GB | weights, GB |\n" + "|---" * 7 + "|")
    checkpoint = meta_checkpoint()
    for count, flags in CASES:
        show(estimate(checkpoint, count, flags))


if __name__ == "__main__":
    sys.exit(run_program(main))
