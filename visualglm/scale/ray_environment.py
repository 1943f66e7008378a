"""Variables that Ray reads when it is imported; importing this module does not import Ray."""

import os
import sys

from visualglm.local_address import listens_on_loopback

THREADS_VARIABLE = "OMP_NUM_THREADS"
# Makes Ray use only the loopback address, and connect to it; its name stems from the systems where that is usual.
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOCAL_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_agent_register_timeout_ms": "120000",  # Ray's processes start slowly while other programs use all cores
    "RAY_worker_niceness": "0",  # the replicas are the server; Ray would let all other programs go first
    "RAY_enable_metrics_collection": "0",  # Ray's own; the server's are at /metrics
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # at 0.1, the controller alone uses 5 % of a core
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # each message would pass through another thread
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # needs less time per message than Ray's own calls
    LOOPBACK_VARIABLE: "0",
}


def prepare_local_ray() -> None:
    """Set the variables of a local Ray, before Ray is imported; variables that the user has set stay."""
    if "ray" in sys.modules:
        raise RuntimeError("Ray has already been imported and would ignore the variables.")
    for name, value in LOCAL_VARIABLES.items():
        os.environ.setdefault(name, value)


def prepare_connection(address: str) -> None:
    """Let Ray connect to an address "HOST:PORT" of the loopback interface, before Ray is imported."""
    host = address.rpartition(":")[0]
    if host and listens_on_loopback(host):
        os.environ.setdefault(LOOPBACK_VARIABLE, "0")


def forget_thread_count() -> None:
    """Let a model in an actor choose its CPU threads, up to the actor's CPUs, as in any other process.

    Ray sets OMP_NUM_THREADS to the actor's CPUs unless it is set, as if the user asked for as many: a small model,
    which is fastest with one thread, would use all of them. Outside of an actor this does nothing.
    """
    import ray
    import torch

    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return
    cpus = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    if os.environ.get(THREADS_VARIABLE) == str(cpus):
        del os.environ[THREADS_VARIABLE]
        torch.set_num_threads(cpus)
