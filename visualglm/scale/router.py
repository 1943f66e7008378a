"""Ray Serve's choice of a replica: questions about the same image go to the replica that has its embeddings."""

import random
import zlib
from collections.abc import Iterable
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from .wire import image_key

# A replica that has the embeddings may have more answers than the least busy one: `MORE` times as many, and `EXTRA`.
MORE = 1.5
EXTRA = 2


class ImageRouter(RequestRouter):
    """Sends questions about an image to one replica, unless that one is busier than others.

    An image belongs to the replica with the highest hash of both: a replica that comes or goes changes the replica of
    its own images alone. Other calls, and questions without an image, go to the less busy one of two random replicas;
    so do explanations, which encode their image anew: no replica has an advantage.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return groups of replicas; Ray Serve asks the next group if no replica of one accepts the request."""
        if not candidate_replicas:
            return []
        pair = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        if pending_request is None:
            return [pair]
        pending_request.routing_context.should_backoff = True  # before it tries the same groups again
        key = find_key(pending_request)
        if not key:
            return [pair]
        owner = max(candidate_replicas, key=lambda replica: rank(key, replica.replica_id.unique_id))
        return [pair] if self.is_busy(owner, candidate_replicas) else [[owner], pair]

    def is_busy(self, owner: RunningReplica, replicas: Iterable[RunningReplica]) -> bool:
        """Return whether a replica has many more answers than the least busy one."""
        known = {replica.replica_id: self.replica_queue_len_cache.get(replica.replica_id) for replica in replicas}
        least = min(length or 0 for length in known.values())
        return (known[owner.replica_id] or 0) > MORE * least + EXTRA


def find_key(request: PendingRequest) -> int:
    """Return the `image_key` of a call of `ModelReplica.answer`; 0 for other calls."""
    arguments: list[Any] = request.args
    return image_key(arguments[2]) if request.metadata.call_method == "answer" else 0


def rank(key: int, replica: str) -> int:
    """Return a hash of an image's key and a replica's name."""
    return zlib.crc32(f"{key} {replica}".encode())
