"""A Ray cluster of several nodes on this machine, each with processes of its own, as real nodes have them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from ray.cluster_utils import Cluster

ATTEMPTS = 4  # Ray gives a node 30 seconds to start, which a busy machine exceeds now and then
OBJECT_STORE = 100 * 2**20  # bytes of a node
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_health_check_period_ms": "1000",  # a killed node is noticed after a few seconds, not after 30
    "RAY_health_check_timeout_ms": "5000",
}


@contextlib.contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """Context manager: a cluster whose head has no CPUs; `add_node` adds nodes. Everything is ended afterwards."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets of longer paths are not possible
    before = {name: os.environ.get(name) for name in (*VARIABLES, "RAY_TMPDIR")}
    os.environ.update(VARIABLES, RAY_TMPDIR=folder)
    cluster = Cluster(shutdown_at_exit=True)
    try:
        add_node(cluster, num_cpus=0, include_dashboard=False)
        yield cluster
    finally:
        for node in [*cluster.worker_nodes, *([cluster.head_node] if cluster.head_node else [])]:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: Cluster, **settings: Any) -> Any:
    """Add a node with these settings of `Cluster.add_node`; return it."""
    for attempt in range(ATTEMPTS):
        try:
            return cluster.add_node(object_store_memory=OBJECT_STORE, **settings)
        except Exception as error:
            if attempt == ATTEMPTS - 1 or "timed out during startup" not in str(error):
                raise
    raise AssertionError
