"""Serve with several replicas on this machine: a local Ray with the replicas, and the HTTP server in this process."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve

from visualglm.server.http_server import serve as serve_http
from visualglm.server.listening import listen
from visualglm.server.settings import Settings

from .address import LOG_LEVEL, start_ray
from .application import build_model
from .cluster_config import ClusterSettings
from .deploying import deploy
from .ingress import build_ingress
from .replica import ModelSettings

LOOPBACK = "127.0.0.1"


@contextmanager
def local_ray(cluster: ClusterSettings) -> Iterator[None]:
    """Run a Ray of our own with Ray Serve in the block, which only this machine can reach.

    Raises:
        VisualGLMError: Ray cannot be started.
    """
    cpus = max(os.cpu_count() or 1, round(cluster.replicas * cluster.cpus) + 1)
    start_ray(num_cpus=cpus, _node_ip_address=LOOPBACK)
    logging.getLogger("ray.serve").setLevel(LOG_LEVEL)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": LOG_LEVEL})
        yield  # no serve.shutdown: Ray would report the calls of this process that end with Serve as failed
    finally:
        ray.shutdown()


def serve_locally(cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> None:
    """Serve until a signal stops the server.

    Raises:
        SettingError: the server cannot listen at the address.
        VisualGLMError: Ray or a replica cannot be started.
    """
    settings = cluster.settings_of_each(settings)
    with listen(settings):  # find out now whether the address can be used
        pass
    with local_ray(cluster):
        serve_http(build_ingress(settings), settings, lambda: deploy(build_model(cluster, model, settings)))
