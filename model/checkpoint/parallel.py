"""A SAT model in several files, one for each model-parallel rank: joining them, and cutting a model into them.

SAT gives each rank an equal share of the rows of a column-parallel matrix (for query_key_value and key_value, of each
of q, k and v), of the columns of a row-parallel one, and of the rows of a large embedding. The rest is in every file.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import CheckpointError
from .adapters import method_of
from .layout import SPLIT
from .lazy import LazyTensors, Tensors, misfit_explained
from .names import is_language_qkv

# What a column-parallel layer's name ends with -> how many matrices are stacked in it.
STACKED = {
    "attention.query_key_value": 3,
    "cross_attention.key_value": 2,
    "cross_attention.query": 1,
    "mlp.dense_h_to_4h": 1,
    "lm_head": 1,
}
ROW_PARALLEL = (".dense.weight", ".dense_4h_to_h.weight")
# SAT keeps smaller embeddings whole in every rank.
LARGE_VOCABULARY = 1000
VISION, QFORMER = "mixins.eva.model.vit.", "mixins.eva.model.qformer."


def part_config(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the transformer that the tensor called `name` belongs to."""
    if name.startswith(VISION):
        return config["eva_args"]  # type: ignore[no-any-return]
    return config["qformer_args"] if name.startswith(QFORMER) else config


def stacked_in(name: str, config: Mapping[str, Any]) -> int:
    """Return how many matrices, each cut by rows, are stacked in the tensor `name`; 0 if its rows are not cut."""
    if name.endswith(".word_embeddings.weight"):
        return int(part_config(name, config)["vocab_size"] >= LARGE_VOCABULARY)
    layer = name.rpartition(".")[0]
    return next((count for ending, count in STACKED.items() if layer.endswith(ending)), 0)


def join_ranks(ranks: Sequence[Tensors], config: Mapping[str, Any], layout: str) -> Tensors:
    """Return the whole tensors of a model in `ranks`, its files in order.

    Raises:
        CheckpointError: the files hold different tensors, or LoRA's, whose cut SAT does not define.
    """
    if len(ranks) == 1:
        return ranks[0]
    for number, rank in enumerate(ranks):
        different = sorted(set(ranks[0]) ^ set(rank))
        if different:
            raise CheckpointError(f"Rank {number} and rank 0 do not hold the same tensors: {different[0]} is in one.")
    refuse_copies(ranks)
    added = [name for name in ranks[0] if method_of(name)]
    if added:
        raise CheckpointError(
            f"{added[0]} was fine-tuned over {len(ranks)} model-parallel ranks, which cannot be joined here. "
            "Merge it with the program that trained it."
        )
    return LazyTensors({name: partial(join_checked, ranks, name, config, layout) for name in ranks[0]})


def refuse_copies(ranks: Sequence[Tensors]) -> None:
    """Raise CheckpointError where two ranks have the same share of a matrix, as training never leaves them."""
    name = next((name for name in ranks[0] if name.endswith(ROW_PARALLEL)), None)
    if name is None:
        return
    for number in range(1, len(ranks)):
        share, other = ranks[number][name], ranks[number - 1][name]
        if torch.equal(share, other) and share.numel() and share.min() != share.max():
            raise CheckpointError(
                f"The files of ranks {number - 1} and {number} hold the same share of {name}: one is a copy of the "
                "other. Copy the right file there again."
            )


def join_checked(ranks: Sequence[Tensors], name: str, config: Mapping[str, Any], layout: str) -> torch.Tensor:
    """Return the whole tensor called `name`; raise CheckpointError where its shares do not fit together."""
    with misfit_explained(name):
        return join_one(ranks, name, config, layout)


def join_one(ranks: Sequence[Tensors], name: str, config: Mapping[str, Any], layout: str) -> torch.Tensor:
    """Return the whole tensor called `name`."""
    if name.endswith(ROW_PARALLEL):
        return torch.cat([rank[name] for rank in ranks], dim=1)
    stacked = stacked_in(name, config)
    if not stacked:
        return ranks[0][name]
    if is_language_qkv(name) and layout != SPLIT:
        stacked = 1  # whole heads, each with its q, k and v
    parts = [rank[name].chunk(stacked) for rank in ranks]
    return torch.cat([part[i] for i in range(stacked) for part in parts])


def cut(name: str, tensor: torch.Tensor, size: int, config: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the share of each of `size` ranks of a tensor whose rows are in the split order."""
    if size == 1:
        return [tensor]
    if name.endswith(ROW_PARALLEL):
        return list(tensor.chunk(size, dim=1))
    stacked = stacked_in(name, config)
    if not stacked:
        return [tensor] * size
    parts = [part.chunk(size) for part in tensor.chunk(stacked)]
    return [torch.cat([part[rank] for part in parts]) for rank in range(size)]


def check_size(size: int, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the model cannot be cut into `size` equal shares."""
    parts = {"": config, "ViT ": config["eva_args"], "QFormer ": config["qformer_args"]}
    for title, part in parts.items():
        heads, vocabulary = part["num_attention_heads"], part["vocab_size"]
        if size < 1 or heads % size or (vocabulary >= LARGE_VOCABULARY and vocabulary % size):
            raise CheckpointError(
                f"A model-parallel size of {size} does not divide the {title}attention's {heads} heads"
                f"{f' and the vocabulary of {vocabulary}' if not title else ''}. Choose one that does, e.g. 1 or 2."
            )
