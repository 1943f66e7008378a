"""Deploy an application of Ray Serve."""

from typing import Any

import ray
from ray import serve

from model import VisualGLMError

from .address import LOG_LEVEL
from .coordinator import get_coordinator
from .errors import ClusterError
from .names import APPLICATION


def deploy(application: Any) -> None:
    """Start the application and wait until all its replicas are ready.

    Raises:
        ClusterError: the nodes do not have this project.
        VisualGLMError: a replica cannot be started.
    """
    coordinator = start_coordinator()
    options = {"enable_access_log": False, "log_level": LOG_LEVEL}
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=options)
    except RuntimeError as error:
        reason = ray.get(coordinator.failure_reason.remote())
        raise VisualGLMError(reason or f"Ray Serve could not start the server: {error}") from error


def start_coordinator() -> Any:
    """Return the handle of the coordinator as soon as it runs.

    Raises:
        ClusterError: the nodes do not have this project.
    """
    coordinator = get_coordinator()
    try:
        ray.get(coordinator.__ray_ready__.remote())
    except ray.exceptions.ActorDiedError as error:
        if "No module named" not in str(error):
            raise
        missing = str(error).strip().splitlines()[-1]
        raise ClusterError(
            f"The nodes of the cluster cannot import this program ({missing}). Install the same version of it on all "
            "nodes with the extra `scale`, and start Ray from that environment."
        ) from error
    return coordinator
