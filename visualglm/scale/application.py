"""The Ray Serve applications: the replicas of the model, alone or with HTTP applications in front of them."""

import platform
import uuid
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from model import VisualGLMError
from visualglm.server.settings import Settings

from .cluster_config import ClusterSettings
from .coordinator import get_coordinator
from .errors import ClusterError
from .identity import model_identity, program_identity
from .ingress import build_ingress
from .names import INGRESS_DEPLOYMENT, MODEL_DEPLOYMENT
from .ray_environment import forget_thread_count
from .replica import ModelReplica, ModelSettings

MARGIN_S = 10.0  # a replica may take longer to stop than the longest answer
ROUTER = "visualglm.scale.router.ImageRouter"
START_ATTEMPTS = 2  # a replica whose model cannot be loaded is not started forever


class ServedReplica(ModelReplica):
    """A replica that starts only if its node has the files of the other nodes, and that reports why it cannot start.

    Args:
        settings: the model.
        deployment: identifies the deployment, all of whose replicas have the same model and program.
    """

    def __init__(self, settings: ModelSettings, deployment: str) -> None:
        self.coordinator = get_coordinator()
        try:
            self.check_files(settings, deployment)
            forget_thread_count()
            super().__init__(settings)
        except VisualGLMError as error:
            ray.get(self.coordinator.fail.remote(str(error)))
            raise

    def check_files(self, settings: ModelSettings, deployment: str) -> None:
        """Check that this node has the same model and program as the node of the first replica.

        Raises:
            ClusterError: it has others.
        """
        files = {name: model_identity(name) for name in settings.model_names}
        files["the program VisualGLM"] = program_identity()
        different = ray.get(self.coordinator.compare.remote(deployment, files))
        if different:
            raise ClusterError(
                f"The node {platform.node()} has other files of {different} than the nodes that already serve it. "
                "Copy the same version to all nodes, then deploy again."
            )


def build_model(cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> Any:
    """Return the application of the model's replicas, ready for `serve.run`."""
    replica = serve.deployment(
        ServedReplica,
        name=MODEL_DEPLOYMENT,
        ray_actor_options={"num_gpus": cluster.gpus, "num_cpus": cluster.cpus},
        max_ongoing_requests=model.max_batch_size + model.max_queue_size,
        max_constructor_retry_count=START_ATTEMPTS,
        rolling_update_percentage=cluster.update_percentage / 100,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        **common_options(settings),
        **scaling_options(cluster, model.max_batch_size),
    )
    return replica.bind(model, uuid.uuid4().hex)


def build_application(cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> Any:
    """Return the application with HTTP applications in front of the replicas, ready for `serve.run`."""
    settings_of_each = cluster.settings_of_each(settings)

    def build() -> Any:
        return build_ingress(settings_of_each)

    ingress = serve.deployment(
        serve.ingress(build)(),
        name=INGRESS_DEPLOYMENT,
        num_replicas=cluster.http_replicas,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=settings.max_connections,
        **common_options(settings),
    )
    return ingress.bind(build_model(cluster, model, settings))


def common_options(settings: Settings) -> dict[str, Any]:
    """Return Ray Serve's options of both deployments: a replica that is replaced finishes its answers first."""
    stop_s = settings.request_timeout + MARGIN_S
    return {"graceful_shutdown_timeout_s": stop_s, "graceful_shutdown_wait_loop_s": 0.5, "health_check_period_s": 2.0}


def scaling_options(cluster: ClusterSettings, max_batch_size: int) -> dict[str, Any]:
    """Return Ray Serve's options for a fixed or an automatically chosen number of replicas."""
    if cluster.max_replicas is None:
        return {"num_replicas": cluster.replicas}
    limits = {"min_replicas": cluster.min_replicas, "max_replicas": cluster.max_replicas}
    target = cluster.target_answers or max_batch_size
    return {"autoscaling_config": {**limits, "target_ongoing_requests": target}}
