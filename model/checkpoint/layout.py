"""Convert tensor names between both formats, and check the row order of query-key-value (QKV) tensors.

A model with the wrong row order loads without an error and generates nonsense. The configuration names the order, and
the weights are used to verify it: training makes the norms of q, k and v rows differ, so that the row norms cluster
by the true order.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from ..errors import CheckpointError
from ..tensors import LazyTensors, Tensors, loaders_of, translate_shape_errors

IMAGE_PREFIX, SAT_IMAGE_PREFIX = "image_encoder.", "mixins.eva.model."
# HF name -> SAT name where they differ by more than a prefix.
HF_TO_SAT = {"lm_head.weight": "mixins.chatglm-final.lm_head.weight"}
SAT_TO_HF = {sat_name: hf_name for hf_name, sat_name in HF_TO_SAT.items()}
# Suffix of tensors that are computed from the configuration and never loaded.
DERIVED_SUFFIX = "rotary_emb.inv_freq"
# A table in older SAT models that no forward pass uses.
IGNORED_TENSORS = frozenset({"transformer.position_embeddings.weight"})


def is_loaded(name: str) -> bool:
    """Return whether the tensor called `name` in either format is part of the model."""
    return name not in IGNORED_TENSORS and not name.endswith(DERIVED_SUFFIX)


def to_sat_name(name: str) -> str | None:
    """Return the SAT name of an HF tensor; None for a tensor that is computed instead of loaded."""
    if name.endswith(DERIVED_SUFFIX):
        return None
    if name.startswith(IMAGE_PREFIX):
        return SAT_IMAGE_PREFIX + name.removeprefix(IMAGE_PREFIX)
    return HF_TO_SAT.get(name, name)


def to_hf_name(name: str) -> str:
    """Return the HF name of a SAT tensor."""
    if name.startswith(SAT_IMAGE_PREFIX):
        return IMAGE_PREFIX + name.removeprefix(SAT_IMAGE_PREFIX)
    return SAT_TO_HF.get(name, name)


def is_language_qkv(name: str) -> bool:
    """Return whether `name` is a QKV tensor of the language model, whose rows have one of two orders."""
    stem, _, kind = name.rpartition(".")
    module = stem.removesuffix(".original")  # the layer may be wrapped by LoRA
    return (
        name.startswith("transformer.layers.")
        and module.endswith(".attention.query_key_value")
        and kind in ("weight", "bias")
    )


def split_qkv(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Convert interleaved rows [heads * 3 * head_dim, ...] to split rows of the same shape."""
    rows = tensor.view(heads, 3, -1, *tensor.shape[1:])
    return rows.transpose(0, 1).reshape(tensor.shape)


def interleave_qkv(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Convert split rows [3 * heads * head_dim, ...] to interleaved rows of the same shape."""
    rows = tensor.view(3, heads, -1, *tensor.shape[1:])
    return rows.transpose(0, 1).reshape(tensor.shape)


SPLIT, INTERLEAVED = "split", "interleaved"
LAYOUTS = (SPLIT, INTERLEAVED)
# The weights override the configuration only if they contradict it clearly: in visualglm-tiny, the right order
# explains 0.57 of the variance and the wrong one 0.05. With two heads the wrong order explains a quarter of what the
# right one explains, with more heads less. Random weights contradict it with a probability below MAX_P_VALUE.
MIN_EXPLAINED_VARIANCE = 0.3
MIN_VARIANCE_RATIO = 3.0
MAX_P_VALUE = 1e-4


def split_qkv_rows(tensors: Tensors, layout: str, heads: int) -> Tensors:
    """Convert the QKV rows of `tensors` from `layout` to the split order, each on access."""
    if layout == SPLIT:
        return tensors
    loaders = loaders_of(tensors)
    for name in filter(is_language_qkv, tensors):
        loaders[name] = partial(split_qkv_tensor, tensors, name, heads)
    return LazyTensors(loaders)


def split_qkv_tensor(tensors: Tensors, name: str, heads: int) -> torch.Tensor:
    """Convert the rows of the tensor called `name` from the interleaved to the split order."""
    with translate_shape_errors(name):
        return split_qkv(tensors[name], heads)


def explained_variance(tensors: Iterable[torch.Tensor], heads: int) -> tuple[dict[str, float], int]:
    """Compute the share of the variance of row norms that each order explains.

    Args:
        tensors: QKV weights [3 * heads * head_dim, D] or biases [3 * heads * head_dim].
        heads: number of attention heads.

    Returns:
        For each order, the explained variance: the between-group variance of its three groups, divided by the total
        variance of the norms of 3 * heads row blocks, averaged over the tensors; and the number of tensors with
        nonzero variance.
    """
    ratios: dict[str, list[float]] = {SPLIT: [], INTERLEAVED: []}
    for tensor in tensors:
        rows = tensor.detach().flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
        wide = torch.promote_types(rows.dtype, torch.float32)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=wide).double()
        blocks = norms.view(3 * heads, -1).mean(1)
        blocks = blocks - blocks.mean()
        total = float(blocks.square().mean())
        if total > 0:
            ratios[SPLIT].append(float(blocks.view(3, heads).mean(1).square().mean()) / total)
            ratios[INTERLEAVED].append(float(blocks.view(heads, 3).mean(0).square().mean()) / total)
    return {layout: sum(values) / max(1, len(values)) for layout, values in ratios.items()}, len(ratios[SPLIT])


def p_value(explained: float, heads: int, count: int) -> float:
    """Return the p-value: the probability that `count` random tensors have at least the explained variance `explained`.

    For random blocks it has a beta distribution, whose upper tail is a finite sum, because three groups leave two
    degrees of freedom per tensor.
    """
    if heads < 2 or count == 0 or explained <= 0:
        return 1.0
    if explained >= 1:
        return 0.0
    a, b = count, 1.5 * count * (heads - 1)
    terms = (
        b * math.log1p(-explained) + j * math.log(explained) + math.lgamma(b + j) - math.lgamma(b) - math.lgamma(j + 1)
        for j in range(a)
    )
    return min(1.0, sum(math.exp(term) for term in terms))


def detect_other_layout(tensors: Iterable[torch.Tensor], layout: str, heads: int) -> str | None:
    """Return the opposite row order if the weights clearly have it; None otherwise."""
    ratios, count = explained_variance(tensors, heads)
    other = INTERLEAVED if layout == SPLIT else SPLIT
    clear = ratios[other] >= max(MIN_EXPLAINED_VARIANCE, MIN_VARIANCE_RATIO * ratios[layout])
    return other if clear and p_value(ratios[other], heads, count) < MAX_P_VALUE else None


def check_layout(tensors: Tensors, layout: str, heads: int, location: object) -> None:
    """Raise CheckpointError if the weights of the model in `location` clearly contradict the row order `layout`."""
    names = [name for name in tensors if is_language_qkv(name)]
    with translate_shape_errors("query_key_value"):
        other = detect_other_layout((tensors[name] for name in names), layout, heads)
    if other is not None:
        raise CheckpointError(
            f"{location}: according to its configuration the query_key_value rows are {layout}, but the weights look "
            f"{other}. With the wrong order, the model generates nonsense. Specify the right one: "
            f"qkv_layout={other!r} (most likely) or {layout!r} where the model is loaded, or convert the model with "
            f"`python -m model.checkpoint.convert SRC DST --to sat --qkv-layout {other}`."
        )


def check_heads(tensors: Tensors, config: dict[str, Any], location: object) -> None:
    """Raise CheckpointError if rotary frequencies among `tensors` imply a different number of heads.

    Args:
        tensors: tensors by their names in either format.
        config: the entries of a SAT model_config.json.
        location: path of the model, for the message.
    """
    name = next((name for name in tensors if name.endswith(DERIVED_SUFFIX)), None)
    if name is None:
        return
    width, heads, count = config["hidden_size"], config["num_attention_heads"], tensors[name].numel()
    if width != 4 * count * heads:
        fitting = f"{width // (4 * count)} heads" if count and width % (4 * count) == 0 else "no number of heads"
        raise CheckpointError(
            f"{location}: according to its configuration num_attention_heads is {heads}, but {name} has {count} "
            f"frequencies, which with a hidden_size of {width} match {fitting}. With a wrong number, the model "
            "generates nonsense. The weights and the configuration belong to different models. Get both from one "
            "source."
        )
