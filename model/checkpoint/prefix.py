"""P-tuning v2 in the two formats: SAT has a tensor for each layer, ChatGLM-6B's Hugging Face code one table for all.

mixins.ptuning.prefix.i                          [2, H, P, head_dim], keys and values of layer i
transformer.prefix_encoder.embedding.weight      [P, layers * 2 * H * head_dim]
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .lazy import LazyTensors, Tensors, makers_of, misfit_explained

if TYPE_CHECKING:
    from .load import Checkpoint

SAT_PREFIX = re.compile(r"^mixins\.[^.]+\.prefix\.(\d+)$")
TABLE = "transformer.prefix_encoder.embedding.weight"


def encode_prefix(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return a SAT model with P-tuning as one whose prefixes are the table of the Hugging Face format."""
    found = {name: match for name in checkpoint.stored if (match := SAT_PREFIX.match(name))}
    names = sorted(found, key=lambda name: int(found[name][1]))
    if not names:
        return checkpoint
    makers = {name: make for name, make in makers_of(checkpoint.stored).items() if name not in found}
    makers[TABLE] = partial(make_table, checkpoint.stored, names)
    with misfit_explained(names[0]):
        length = checkpoint.stored[names[0]].shape[2]
    config = {**checkpoint.config, "use_ptuning": True, "pre_seq_len": length}
    return replace(checkpoint, stored=LazyTensors(makers), config=config)


def make_table(tensors: Tensors, names: list[str]) -> torch.Tensor:
    """Return the table of the prefixes of these names, in the order of their layers."""
    with misfit_explained(TABLE):
        prefixes = torch.stack([tensors[name] for name in names])  # [layers, 2, H, P, head_dim]
        return prefixes.permute(3, 0, 1, 2, 4).flatten(1)


def decode_prefix(tensors: Tensors, config: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the SAT configuration of a Hugging Face model with its table as SAT's prefixes."""
    if TABLE not in tensors:
        return tensors, dict(config)
    makers = {name: make for name, make in makers_of(tensors).items() if name != TABLE}
    layers, heads = config["num_layers"], config["num_attention_heads"]
    for number in range(layers):
        makers[f"mixins.ptuning.prefix.{number}"] = partial(read_layer, tensors, number, layers, heads)
    return LazyTensors(makers), {**config, "use_ptuning": True, "pre_seq_len": tensors[TABLE].shape[0]}


def read_layer(tensors: Tensors, number: int, layers: int, heads: int) -> torch.Tensor:
    """Return the prefix [2, H, P, head_dim] of a layer from the table."""
    table = tensors[TABLE]
    with misfit_explained(TABLE):
        return table.view(len(table), layers, 2, heads, -1)[:, number].permute(1, 2, 0, 3).contiguous()
