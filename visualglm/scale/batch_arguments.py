"""The flags of `visualglm batch` for a Ray cluster. Importing this module does not import Ray."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from model import SettingError
from visualglm.batch.tasks import Backend

ALL = "all"
CLUSTER_FLAGS = ("cpus_a_worker", "send_images")  # without --ray they mean nothing


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags --ray, --cpus-a-worker and --send-images."""
    add = parser.add_argument_group("Ray cluster", "They need Ray, from the extra `scale`.").add_argument
    add(
        "--ray",
        metavar="ADDRESS",
        help="answer on a Ray cluster, such as auto or 10.0.0.1:6379, with one process per GPU; --gpus N limits them",
    )
    add("--cpus-a-worker", type=int, metavar="N", help="with --ray: answer on CPUs, N for each process")
    add("--send-images", action="store_true", help="with --ray: send image files to nodes that cannot read the folder")


def check_ray_arguments(options: argparse.Namespace, fail: Callable[[str], NoReturn]) -> None:
    """Check that the flags belong together; call `fail` with the reason if they do not."""
    given = [name for name in CLUSTER_FLAGS if getattr(options, name)]
    if options.ray is None and given:
        fail(f"--{given[0].replace('_', '-')} needs --ray ADDRESS.")
    if options.ray is not None and options.device is not None:
        fail("--device is not possible with --ray, which uses the nodes' GPUs. For CPUs, give --cpus-a-worker N.")
    if options.cpus_a_worker is not None and options.cpus_a_worker < 1:
        fail("--cpus-a-worker should be at least 1.")


def choose_cluster(options: argparse.Namespace) -> Backend:
    """Return the backend of the flags.

    Raises:
        SettingError: --gpus is not a number or all.
        ClusterError: Ray is not installed, or the address cannot be used.
    """
    from .cluster_batch import ClusterOptions, cluster_backend

    workers = parse_workers(options.gpus)
    return cluster_backend(ClusterOptions(options.ray, workers, options.cpus_a_worker or 0, options.send_images))


def parse_workers(gpus: str | None) -> int | None:
    """Return the maximum number of workers that --gpus names, None for as many as fit.

    Raises:
        SettingError: it is not a number or all.
    """
    if gpus in (None, ALL):
        return None
    if not str(gpus).isdecimal() or int(str(gpus)) < 1:
        raise SettingError(f"--gpus is {gpus!r}; with --ray it should be all, or a number of GPUs.")
    return int(str(gpus))
