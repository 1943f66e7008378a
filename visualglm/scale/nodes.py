"""The nodes of the connected Ray cluster: their GPUs, their version of the project, and whether they see the images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ClusterError
from .version import code_digest

ANSWER_S = 60.0  # a node imports the project's code from its own disk


class Node(NamedTuple):
    """A node of the cluster.

    Attributes:
        node_id: Ray's hexadecimal id.
        address: its IP address.
        resources: amounts by name, such as "CPU" and "GPU".
    """

    node_id: str
    address: str
    resources: Mapping[str, float]


def list_nodes() -> list[Node]:
    """List the nodes that are alive."""
    import ray

    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]
    ]


def count_slots(nodes: Sequence[Node], cpus: int) -> int:
    """Return how many workers fit on the nodes: one a GPU, or one a `cpus` CPUs if `cpus` is not 0."""
    return sum(int(node.resources.get("CPU", 0) // cpus if cpus else node.resources.get("GPU", 0)) for node in nodes)


def find_limit(cpus: int) -> int:
    """Return how many workers fit on the cluster once its autoscaler has added all nodes that it may add; 0 if unknown.

    Args:
        cpus: CPUs of a worker, 0 for one GPU.
    """
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config() or {}
    return int(most.get("CPU", 0) // cpus if cpus else most.get("GPU", 0))


def choose_workers(wanted: int | None, cpus: int) -> tuple[int, int]:
    """Return (number of workers to start with, maximum number of workers).

    Args:
        wanted: number of workers, None for as many as fit.
        cpus: CPUs of a worker, 0 for one GPU.

    Raises:
        ClusterError: the cluster has too few GPUs or CPUs.
    """
    present = count_slots(list_nodes(), cpus)
    most = max(present, find_limit(cpus))
    if most == 0 and not cpus:
        raise ClusterError(
            "The Ray cluster has no GPU. Add a node that has one (`ray status` lists what the cluster has), or answer "
            "on CPUs with --cpus-a-worker N."
        )
    if most == 0:
        raise ClusterError(f"No node of the Ray cluster has {cpus} CPUs. Give a smaller --cpus-a-worker.")
    if wanted is not None and wanted > most:
        unit = f"workers of {cpus} CPUs" if cpus else "GPUs"
        raise ClusterError(
            f"The Ray cluster has room for {most} {unit}, and {wanted} are wanted. Add nodes, or give at most "
            f"--gpus {most}; --gpus all takes as many as there are."
        )
    most = min(most, wanted or most)
    return max(1, min(present, most)), most


def make_inspection() -> Callable[[str | None], dict[str, Any]]:
    """Return a function that a node runs, also without the project: it is sent with its code."""

    def inspect(sample: str | None) -> dict[str, Any]:
        import os

        try:
            from visualglm.scale.version import code_digest
        except ImportError as error:
            return {"problem": str(error)}
        return {"digest": code_digest(), "sees": sample is None or os.path.exists(sample)}  # noqa: PTH110

    return inspect


def check_nodes(nodes: Sequence[Node], sample: str | None = None) -> None:
    """Check that all nodes have this version of the project, and see a file.

    Args:
        sample: path of a file that the nodes have to read; None for none.

    Raises:
        ClusterError: a node differs, or does not answer within a minute.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    run = ray.remote(num_cpus=0, max_retries=0)(make_inspection())
    asked = [
        (node, run.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(sample))
        for node in nodes
    ]
    for node, reference in asked:
        try:
            facts = ray.get(reference, timeout=ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            raise ClusterError(
                f"Node {node.address} of the Ray cluster starts no worker within {ANSWER_S:.0f} s. Its log is in "
                "/tmp/ray/session_latest/logs of that machine."
            ) from None
        check_facts(facts, node.address, code_digest(), sample)


def check_facts(facts: Mapping[str, Any], address: str, ours: str, sample: str | None) -> None:
    """Check the facts that a node reports.

    Args:
        facts: the result of the function of `make_inspection`.
        address: of the node, for the message.
        ours: the program's `code_digest`.
        sample: path of a file that the node has to read; None for none.

    Raises:
        ClusterError: the project is missing or has another version, or the node does not see the file.
    """
    if "problem" in facts:
        raise ClusterError(
            f"Node {address} cannot import VisualGLM ({facts['problem']}). Install the same version on all nodes, in "
            "the environment in which `ray start` runs."
        )
    if facts["digest"] != ours:
        raise ClusterError(
            f"Node {address} has another version of VisualGLM (code {facts['digest']}; the program has {ours}). "
            "Install the same version on all nodes."
        )
    if not facts["sees"]:
        raise ClusterError(
            f"Node {address} does not see {str(sample)!a}. Mount the folder at the same path on all nodes, or send the "
            "images to the nodes with --send-images."
        )


def first_file(images: Sequence[str | bytes | None]) -> str | None:
    """Return the first image that is the path of an existing file, None if there is none."""
    return next((image for image in images if isinstance(image, str) and is_file(image)), None)


def is_file(image: str) -> bool:
    """Return whether an image is the path of an existing file; False for URLs."""
    try:
        return Path(image).is_file()
    except (OSError, ValueError):  # a data URL is too long for a path
        return False
