"""The flags by which every program names its model."""

import argparse
from typing import Any

from .checkpoint.resolve import DEFAULT_MODEL
from .loading import DTYPES

LOADING = ("device", "dtype", "quant")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --from_pretrained, --quant, --device and --dtype."""
    add = parser.add_argument
    names = "visualglm-tiny, visualglm-6b, a directory, or a hub id"
    add("--from_pretrained", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help=f"{names} (default %(default)s)")
    add("--quant", type=int, choices=(8, 4), help="bits of quantised weights")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="of the weights (default: what suits the device)")


def loading_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `load_sat` and `load_hf` that the flags were given, but for the model's name."""
    return {name: getattr(options, name) for name in LOADING}
