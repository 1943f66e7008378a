"""A server that answers the probe of a Ray cluster as a head does, in the process of the test."""

import contextlib
import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc


class FakeHead(gcs_service_pb2_grpc.InternalKVGcsServiceServicer, gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """Answers with the given versions and nodes; requires `token` if it is not empty."""

    def __init__(self, versions: dict[str, str], node_ids: tuple[bytes, ...] = (), token: str = "") -> None:
        self.versions = versions
        self.node_ids = node_ids
        self.token = token

    def check(self, context: Any) -> None:
        sent = dict(context.invocation_metadata()).get("authorization", "")
        if self.token and sent != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")

    def InternalKVGet(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.check(context)
        return gcs_service_pb2.InternalKVGetReply(value=json.dumps(self.versions).encode())

    def GetAllNodeInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.check(context)
        reply = gcs_service_pb2.GetAllNodeInfoReply()
        for node_id in self.node_ids:
            reply.node_info_list.add(node_id=node_id, state=0)
        return reply


@contextlib.contextmanager
def serving_head(head: FakeHead) -> Iterator[str]:
    """Context manager: serve `head` on the loopback interface; yield its address."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(head, server)
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(head, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
