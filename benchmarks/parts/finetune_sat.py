"""The same training steps by SAT: its LoRA, attention, activation checkpointing, and loss on all logits.

The rest of the original's training (deepspeed's copies of trained weights, dropout) is omitted, which favors it.
"""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.full_size import Source
from benchmarks.parts.finetune_ours import describe_memory_in_use
from benchmarks.parts.machine import synchronize
from finetune.batches import Batch, collate
from finetune.data import ChatDataset
from model import load_tokenizer

# isort: split
import sat.model.transformer as sat_transformer
from sat.model.position_embedding.rotary_embeddings import RotaryEmbedding

WARM_UP = 2
RATE = 1e-4


class SatTraining:
    """Training of SAT's network by SAT's functions.

    Args:
        source: source of the model, in its dtype.
        data: training data.
        length, batch_size: shape of the one batch that is trained on.
        rank, layers: LoRA rank and layers.
        steps: number of measured steps.
    """

    def __init__(
        self, source: Source, data: Path, length: int, batch_size: int, rank: int, layers: list[int], steps: int
    ) -> None:
        self.before = describe_memory_in_use(source.device)
        self.network = use_sat_modules(source.sat().network, rank, layers)
        self.device, self.steps = source.device, steps
        sizes = {"image_length": self.network.image_length, "image_size": self.network.image_size}
        tokenizer = load_tokenizer(source.name if not source.is_random else "visualglm-tiny")
        dataset = ChatDataset(data, tokenizer, max_length=length, **sizes)
        self.batch: Batch = collate([dataset[index] for index in range(batch_size)])
        self.parameters = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.adam = torch.optim.AdamW(self.parameters, lr=RATE)
        self.spent: list[float] = []

    def step(self) -> torch.Tensor:
        """Run one step; return its loss."""
        batch, device = self.batch, self.device
        assert batch.pixels is not None
        ids, labels = batch.input_ids.to(device), batch.labels.to(device)
        pixels = batch.pixels.to(device, self.network.dtype)
        with patch.object(sat_transformer, "checkpoint", partial(checkpoint, use_reentrant=True)):
            logits = self.network(input_ids=ids, image=pixels, pre_image=batch.image_starts[0])[0]
            loss = F.cross_entropy(logits.float()[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        self.adam.zero_grad()
        return loss.detach()

    def measure(self) -> None:
        """Run the steps, once."""
        if self.spent:
            return
        for number in range(WARM_UP + self.steps):
            if number == WARM_UP and self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            started = time.perf_counter()
            self.step()
            synchronize(self.device)
            self.spent.append(time.perf_counter() - started)

    def step_ms(self) -> tuple[float, str]:
        """Return milliseconds per step; the note has tokens/s."""
        self.measure()
        spent = statistics.median(self.spent[WARM_UP:]) * 1e3
        return spent, f"{1e3 * self.batch.input_ids.numel() / spent:,.0f} tokens/s"

    def peak_gib(self) -> tuple[float, str]:
        """Return the peak memory in GiB; the note reports memory in use before."""
        self.measure()
        return torch.cuda.max_memory_allocated(self.device) / 2**30, self.before


def use_sat_modules(network: Any, rank: int, layers: list[int]) -> Any:
    """Replace our attention, rotary tables and LoRA in a network by SAT's own."""
    from sat.model.finetune.lora2 import LoraMixin  # imports bitsandbytes, which takes seconds

    for part in (network.vision_encoder.vit, network.vision_encoder.qformer):
        part.del_mixin("full-attention")
    rotary = RotaryEmbedding(network.rotary.dim)
    rotary.inv_freq = rotary.inv_freq.half().float()  # half precision, as in the original's runs
    network.get_mixin("chatglm-attn").rotary_emb = rotary.to(network.device)
    network.add_mixin("lora", LoraMixin(len(network.transformer.layers), rank, layer_range=layers), reinit=True)
    for name, weight in network.named_parameters():
        weight.requires_grad_("matrix_" in name)
    network.transformer.checkpoint_activations = True
    network.transformer.training = True  # only this flag, not its submodules': it enables activation checkpointing
    return network
