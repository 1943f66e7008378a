"""Serve with several replicas on this machine: start a local Ray, serve until a signal, and stop everything."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from model import VisualGLMError
from visualglm.server.listening import listen, warn_if_unauthenticated
from visualglm.server.request_log import log
from visualglm.server.settings import Settings
from visualglm.stop_signal import StopSignal

from .address import LOG_LEVEL, start_ray
from .application import build_application
from .cluster_config import ClusterSettings
from .coordinator import get_coordinator
from .errors import ClusterError
from .names import APPLICATION
from .replica import ModelSettings

LOOPBACK = "127.0.0.1"
DRAIN_STEP_S = 0.1


@contextmanager
def local_ray(cluster: ClusterSettings) -> Iterator[None]:
    """Run a Ray of our own in the block, which only this machine can reach.

    Raises:
        VisualGLMError: Ray cannot be started.
    """
    cpus = max(os.cpu_count() or 1, round(cluster.replicas * cluster.cpus) + 1)
    start_ray(num_cpus=cpus, _node_ip_address=LOOPBACK)
    try:
        yield
    finally:
        ray.shutdown()


def open_coordinator() -> Any:
    """Return the coordinator, which lets the HTTP applications accept questions.

    Raises:
        ClusterError: the nodes do not have this project.
    """
    coordinator = get_coordinator()
    try:
        ray.get(coordinator.close.remote(False))
    except ray.exceptions.ActorDiedError as error:
        if "No module named" not in str(error):
            raise
        missing = str(error).strip().splitlines()[-1]
        raise ClusterError(
            f"The nodes of the cluster cannot import this program ({missing}). Install the same version of it on all "
            "nodes with the extra `scale`, and start Ray from that environment."
        ) from error
    return coordinator


def deploy(cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> Any:
    """Start the application and wait until all its replicas are ready; return the coordinator.

    Raises:
        ClusterError: the nodes do not have this project.
        VisualGLMError: a replica cannot be started.
    """
    coordinator = open_coordinator()
    options = {"enable_access_log": False, "log_level": LOG_LEVEL}
    application = build_application(cluster, model, settings)
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=options)
    except RuntimeError as error:
        reason = ray.get(coordinator.failure_reason.remote())
        raise VisualGLMError(reason or f"Ray Serve could not start the server: {error}") from error
    return coordinator


def drain(coordinator: Any, seconds: float, stop: StopSignal) -> None:
    """Reject new questions, and wait for running answers until the time is over or a second signal arrives."""
    ray.get(coordinator.close.remote())
    deadline = time.monotonic() + seconds
    while stop.count < 2 and time.monotonic() < deadline and ray.get(coordinator.answers.remote()) != 0:
        time.sleep(DRAIN_STEP_S)


def serve_locally(cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> None:
    """Serve until a signal stops the server.

    Raises:
        SettingError: the server cannot listen at the address.
        VisualGLMError: Ray or a replica cannot be started.
    """
    warn_if_unauthenticated(settings)
    with listen(settings) as sock:  # find out now whether the address can be used
        host, port = sock.getsockname()[:2]
    with local_ray(cluster):
        logging.getLogger("ray.serve").setLevel(LOG_LEVEL)
        stop = StopSignal()
        serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": LOG_LEVEL})
        coordinator = deploy(cluster, model, settings)
        log("listening", host=host, port=port, replicas=cluster.replicas, ray=ray.get_runtime_context().gcs_address)
        stop.wait()
        log("stopping")
        drain(coordinator, settings.shutdown_timeout, stop)
        serve.shutdown()
