"""The tensors of a fine-tune that saved only what it trained, put over those of the model that it began from."""

import os
import reprlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .adapters import FIRST_A
from .layout import INTERLEAVED
from .lazy import LazyTensors, Tensors, makers_of, misfit_explained
from .names import is_language_qkv
from .qkv import interleave_qkv

# Entry of a fine-tune's model_config.json that names the model that it began from.
BASE_KEY = "base_model"
MAX_BASES = 8  # fine-tunes that began from one another
SIZES = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size")


def put_over(base: Tensors, trained: Tensors, layout: str, heads: int) -> Tensors:
    """Return the tensors of `base`, with those of `trained` in the place of the ones of the same name.

    Args:
        base: in the split order.
        trained: what was saved, in the row order `layout`, which the result has too.
    """
    makers = {}
    for name, make in makers_of(base).items():
        if layout == INTERLEAVED and is_language_qkv(name):
            make = partial(interleave_one, base, name, heads)
        makers[name_beside(name, trained)] = make
    return LazyTensors({**makers, **makers_of(trained)})


def name_beside(name: str, trained: Tensors) -> str:
    """Return the name of a plain model's tensor where LoRA in `trained` wraps its layer."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.original.{kind}" if layer + FIRST_A in trained else name


def interleave_one(tensors: Tensors, name: str, heads: int) -> torch.Tensor:
    """Return one of `tensors`, in the split order, with its rows interleaved."""
    with misfit_explained(name):
        return interleave_qkv(tensors[name], heads)


def check_base_name(name: Any, runs: Sequence[Path]) -> None:
    """Raise CheckpointError if `name` would close a cycle of bases, or make the chain of `runs` too long.

    Args:
        runs: directories of a fine-tune, and of the fine-tunes that began from one another to lead to it.
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise CheckpointError(
            f"{runs[-1]}: {BASE_KEY} is {reprlib.repr(name)}; it should be the name or the directory of a model."
        )
    places = [os.path.realpath(run) for run in runs]
    if len(set(places)) < len(places) or len(places) > MAX_BASES:
        raise CheckpointError(
            f"{runs[0]} began from a model that began from another, and so on, back to itself or more than {MAX_BASES} "
            f"times. Correct {BASE_KEY} in its configuration, or name the base by --base or base=."
        )


def check_base(config: Mapping[str, Any], base_config: Mapping[str, Any], place: object, base_place: object) -> None:
    """Raise CheckpointError where a fine-tune's configuration tells of another size of model than its base's."""
    for key in SIZES:
        if config[key] != base_config[key]:
            raise CheckpointError(
                f"{base_place} is not the base of {place}: its {key} is {base_config[key]}, the fine-tune's "
                f"{config[key]}. Name the model that the fine-tune began from."
            )
