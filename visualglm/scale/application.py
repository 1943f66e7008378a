"""The Ray Serve application: the HTTP application in front of the replicas of the model."""

from typing import Any

from ray import serve

from visualglm.server.settings import Settings

from .cluster_config import ClusterSettings
from .ingress import build_ingress
from .names import INGRESS_DEPLOYMENT, MODEL_DEPLOYMENT
from .replica import ModelReplica, ModelSettings

MARGIN_S = 10.0  # a replica may take longer to stop than the longest answer


def build_application(cluster: ClusterSettings, model: ModelSettings, settings: Settings) -> serve.Application:
    """Return the application, ready for `serve.run`."""
    stop_s = settings.request_timeout + MARGIN_S
    settings_of_each = cluster.settings_of_each(settings)
    limit = model.max_batch_size + model.max_queue_size
    replica = serve.deployment(
        ModelReplica,
        name=MODEL_DEPLOYMENT,
        **scaling_options(cluster, model.max_batch_size),
        ray_actor_options={"num_gpus": cluster.gpus, "num_cpus": cluster.cpus},
        max_ongoing_requests=limit,
        graceful_shutdown_timeout_s=stop_s,
    )

    def build() -> Any:
        return build_ingress(settings_of_each)

    ingress = serve.deployment(
        serve.ingress(build)(),
        name=INGRESS_DEPLOYMENT,
        num_replicas=cluster.http_replicas,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=settings.max_connections,
        graceful_shutdown_timeout_s=stop_s,
    )
    return ingress.bind(replica.bind(model))


def scaling_options(cluster: ClusterSettings, max_batch_size: int) -> dict[str, Any]:
    """Return Ray Serve's options for a fixed or an automatically chosen number of replicas."""
    if cluster.max_replicas is None:
        return {"num_replicas": cluster.replicas}
    limits = {"min_replicas": cluster.min_replicas, "max_replicas": cluster.max_replicas}
    target = cluster.target_answers or max_batch_size
    return {"autoscaling_config": {**limits, "target_ongoing_requests": target}}
