"""Ask the head of a Ray cluster for its versions and nodes, within seconds.

Ray's own client retries for 40 seconds and more if no head answers, and ends the process if a token is missing.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from ray._private.authentication import authentication_token_setup
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc, ray_client_pb2, ray_client_pb2_grpc
from ray.exceptions import AuthenticationError

from .errors import ClusterError

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN_ADVICE = "Copy ~/.ray/auth_token from the head node to this machine, or set RAY_AUTH_TOKEN to its content."


class Head(NamedTuple):
    """The answer of a cluster's head.

    Attributes:
        ray_version: Ray's version; "" if unknown.
        python_version: Python's version; "" if unknown.
        node_ids: hexadecimal ids of the nodes that are alive.
    """

    ray_version: str = ""
    python_version: str = ""
    node_ids: frozenset[str] = frozenset()


def probe_head(address: str, timeout: float) -> Head:
    """Ask the head at `address` ("host:port") for its versions and nodes.

    Raises:
        ClusterError: nothing answers within `timeout` seconds, it is no head, or it refuses the token.
    """
    return _ask(address, _read_head, timeout)


def probe_client_server(address: str, timeout: float) -> Head:
    """Check that the server for Ray clients at `address` ("host:port") answers.

    Raises:
        ClusterError: nothing answers within `timeout` seconds, it is no such server, or it refuses the token.
    """
    return _ask(address, _ping_client_server, timeout)


def _read_head(channel: Any, timeout: float) -> Head:
    request = gcs_service_pb2.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
    end = time.monotonic() + timeout
    reply = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel).InternalKVGet(request, timeout=timeout)
    facts = json.loads(reply.value or b"{}")
    nodes = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(
        gcs_service_pb2.GetAllNodeInfoRequest(), timeout=max(end - time.monotonic(), 0)
    )
    alive = frozenset(node.node_id.hex() for node in nodes.node_info_list if node.state == 0)  # GcsNodeInfo.ALIVE
    return Head(facts.get("ray_version", ""), facts.get("python_version", ""), alive)


def _ping_client_server(channel: Any, timeout: float) -> Head:
    request = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
    ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(request, timeout=timeout)
    return Head()


def _ask(address: str, question: Callable[[Any, float], Head], timeout: float) -> Head:
    try:
        return _call(address, question, timeout)
    except (grpc.RpcError, AuthenticationError) as error:
        if not (_is_refused(error) and _enable_token()):
            raise explain(error, address) from None
    try:
        return _call(address, question, timeout)
    except (grpc.RpcError, AuthenticationError) as error:
        raise explain(error, address) from None


def _call(address: str, question: Callable[[Any, float], Head], timeout: float) -> Head:
    channel = init_grpc_channel(address, options=GLOBAL_GRPC_OPTIONS)
    try:
        return question(channel, timeout)
    finally:
        channel.close()


def _is_refused(error: Exception) -> bool:
    return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED


def _enable_token() -> bool:
    """Use this machine's token in this process and its children, unless RAY_AUTH_MODE decides; False if none is there.

    Ray itself does so only for clusters on this machine.
    """
    if AUTH_MODE in os.environ or not has_token():
        return False
    authentication_token_setup._enable_token_auth()
    return True


def has_token() -> bool:
    """Return whether this machine has an authentication token for Ray."""
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def explain(error: Exception, address: str) -> ClusterError:
    """Return the ClusterError that says what to do about an error of the probe."""
    if isinstance(error, AuthenticationError):
        return ClusterError(f"RAY_AUTH_MODE is token, but this machine has no token of Ray. {TOKEN_ADVICE}")
    assert isinstance(error, grpc.Call)
    code = error.code()
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return ClusterError(f"The Ray cluster at {address} {_describe_refusal()}")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ClusterError(
            f"No Ray head answers at {address}. Check the address (`ray status` on the head shows whether it runs) and "
            "the firewall, or start a head: ray start --head --port=6379"
        )
    return ClusterError(
        f"A server answers at {address}, but it is no Ray head. Give the head's address as HOST:6379, or the address "
        "of its server for clients as ray://HOST:10001"
    )


def _describe_refusal() -> str:
    mode = os.environ.get(AUTH_MODE, "").lower()
    if mode == "token":
        return f"refuses the authentication token of this machine. {TOKEN_ADVICE}"
    if mode:
        return f"requires an authentication token, but {AUTH_MODE} is {mode!a} here. Set {AUTH_MODE}=token."
    return f"requires an authentication token, and this machine has none. {TOKEN_ADVICE}"
