"""Deploy the server on a running Ray cluster."""

import logging

import ray
from ray import serve

from model import SettingError
from visualglm.server.listening import warn_if_unauthenticated
from visualglm.server.request_log import log
from visualglm.server.settings import Settings

from .address import LOG_LEVEL, connect
from .application import build_application
from .cluster_config import ClusterSettings
from .deploying import deploy
from .replica import ModelSettings


def deploy_on_cluster(address: str, cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> None:
    """Deploy the server and return when it is ready. A running one is replaced step by step, without a lost answer.

    Raises:
        SettingError: the cluster's HTTP servers listen at another address.
        ClusterError: the cluster cannot be reached.
        VisualGLMError: a replica cannot be started.
    """
    warn_if_unauthenticated(settings)
    connect(address, log_to_driver=False)
    logging.getLogger("ray.serve").setLevel(LOG_LEVEL)
    try:
        start_http(settings)
        deploy(build_application(cluster, model, settings))
        log("deployed", host=settings.host, port=settings.port, replicas=cluster.replicas)
    finally:
        ray.shutdown()


def start_http(settings: Settings) -> None:
    """Start the HTTP servers of Ray Serve, one on each node.

    Raises:
        SettingError: they are running and listen at another address.
    """
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": settings.host, "port": settings.port},
        logging_config={"log_level": LOG_LEVEL},
    )
    running = serve.context._get_global_client().http_config
    if (running.host, running.port) != (settings.host, settings.port):
        raise SettingError(
            f"Ray Serve on this cluster listens at {running.host} port {running.port}. Use the same --host and --port, "
            "or stop it with `serve shutdown` first."
        )
