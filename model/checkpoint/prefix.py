"""P-tuning v2 in the two formats: SAT has a tensor for each layer, ChatGLM-6B's Hugging Face code one table for all.

mixins.ptuning.prefix.i                          [2, H, P, head_dim], keys and values of layer i
transformer.prefix_encoder.embedding.weight      [P, layers * 2 * H * head_dim]
"""

import re
from dataclasses import replace
from functools import partial

import torch

from .lazy import LazyTensors, Tensors, makers_of
from .load import Checkpoint

SAT_PREFIX = re.compile(r"^mixins\.[^.]+\.prefix\.(\d+)$")
TABLE = "transformer.prefix_encoder.embedding.weight"


def encode_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """Return a SAT model with P-tuning as one whose prefixes are the table of the Hugging Face format."""
    found = {name: match for name in checkpoint.stored if (match := SAT_PREFIX.match(name))}
    names = sorted(found, key=lambda name: int(found[name][1]))
    if not names:
        return checkpoint
    makers = {name: make for name, make in makers_of(checkpoint.stored).items() if name not in found}
    makers[TABLE] = partial(make_table, checkpoint.stored, names)
    length = checkpoint.stored[names[0]].shape[2]
    config = {**checkpoint.config, "use_ptuning": True, "pre_seq_len": length}
    return replace(checkpoint, stored=LazyTensors(makers), config=config)


def make_table(tensors: Tensors, names: list[str]) -> torch.Tensor:
    """Return the table of the prefixes of these names, in the order of their layers."""
    prefixes = torch.stack([tensors[name] for name in names])  # [layers, 2, H, P, head_dim]
    return prefixes.permute(3, 0, 1, 2, 4).flatten(1)
