"""The sizes that a configuration gives, checked before a network is built of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

COUNTS = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "model_parallel_size")
PARTS = ("eva_args", "qformer_args")


def check_sizes(config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError where the entries of a SAT model_config.json, read from `file`, can be no model's sizes."""
    for name in PARTS:
        if not isinstance(config[name], Mapping):
            raise CheckpointError(
                f"{file}: {name} should hold sizes by name, not {config[name]!r}. Get the file again."
            )
    for title, part in (("", config), *((f"{name}: ", config[name]) for name in PARTS)):
        for key in COUNTS:
            read_count(part, key, f"{file}: {title}")
        hidden, heads = part.get("hidden_size"), part.get("num_attention_heads")
        if hidden and heads and hidden % heads:
            raise CheckpointError(
                f"{file}: {title}hidden_size is {hidden}, which num_attention_heads, {heads}, does not divide. "
                "Get the file again."
            )


def read_count(config: Mapping[str, Any], key: str, place: object) -> int | None:
    """Return the positive number under `key`, None where there is none; raise CheckpointError for anything else."""
    value = config.get(key)
    if key in config and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise CheckpointError(f"{place}{key} is {value!r}; it should be a number from 1 on. Get the file again.")
    return value
