"""The flags of `visualglm serve` for several replicas. Importing this module does not import Ray."""

import argparse
import sys
from pathlib import Path

from model import SettingError

from .cluster_config import read_cluster_file

ALL = "all"


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags --replicas, --ray and --config."""
    note = "They need Ray, from the extra `scale`."
    add = parser.add_argument_group("several replicas", note).add_argument
    add(
        "--replicas",
        type=parse_replicas,
        metavar="N",
        help="run N processes with a model each, one on each GPU or all on the CPU; all: one for each GPU",
    )
    add("--ray", metavar="ADDRESS", help="deploy the server on a running Ray cluster, such as auto or 10.0.0.1:6379")
    add("--config", type=Path, metavar="FILE", help="with --ray: YAML file with the model, the flags and the replicas")


def parse_replicas(text: str) -> int | str:
    """Return the number of replicas, or "all"."""
    if text == ALL:
        return ALL
    if not text.isdecimal() or not 1 <= int(text[:6]) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000, or {ALL}")
    return int(text)


def apply_cluster_file(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    """Return the options with the values of the file --config; flags of the command line override them.

    Raises:
        SettingError: the file is invalid, or the flags do not belong together.
    """
    options.cluster_values = {}
    if options.config is not None and options.ray is None:
        raise SettingError(
            "--config needs --ray ADDRESS. Without a cluster, use --replicas and the server's own flags."
        )
    if options.config is None:
        return options
    if options.replicas is not None:
        raise SettingError("--replicas and --config exclude each other: write the key replicas in the file.")
    words, values = read_cluster_file(options.config)
    options = parser.parse_args([*words, *sys.argv[1:]])
    options.cluster_values = values
    return options


def runs_on_ray(options: argparse.Namespace) -> bool:
    """Return whether the flags ask for Ray."""
    return options.replicas is not None or options.ray is not None
