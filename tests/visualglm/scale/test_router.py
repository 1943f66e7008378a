"""The choice of a replica: one image, one replica, as long as that one is not much busier than others."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from model import DEMO, Conversation
from visualglm.scale.wire import image_key, pack_question

pytest.importorskip("ray.serve")
NAMES = [f"replica {number}" for number in range(4)]


def question(shade: int | None) -> bytes:
    """Return a packed question about an image of one color, or without an image."""
    image = None if shade is None else Image.new("RGB", (4, 4), (shade, 0, 0))
    return pack_question(Conversation(image), "?", DEMO, 0.0)


def choose(packed: bytes, answers: dict[str, int], method: str = "answer") -> list[list[str]]:
    """Return the groups of replicas that are chosen for a call, given the number of answers of each replica."""
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve._private.request_router.common import ReplicaQueueLengthCache

    from visualglm.scale.router import ImageRouter

    router: Any = object.__new__(ImageRouter)  # its constructor connects with Ray Serve
    router._replica_queue_len_cache = ReplicaQueueLengthCache()
    replicas: Any = [SimpleNamespace(replica_id=ReplicaID(name, DeploymentID("Model"))) for name in answers]
    for replica, length in zip(replicas, answers.values(), strict=True):
        router._replica_queue_len_cache.update(replica.replica_id, length)
    request: Any = SimpleNamespace(
        args=["client", 7, packed] if method == "answer" else [],
        metadata=SimpleNamespace(call_method=method),
        routing_context=SimpleNamespace(should_backoff=False),
    )
    groups = asyncio.run(router.choose_replicas(replicas, request))
    assert request.routing_context.should_backoff
    return [[replica.replica_id.unique_id for replica in group] for group in groups]


def owner(shade: int, names: list[str] = NAMES) -> str:
    """Return the replica that gets questions about an image while no replica has answers."""
    [first], pair = choose(question(shade), dict.fromkeys(names, 0))
    assert len(set(pair)) == min(2, len(names))
    return first


def test_an_image_has_one_replica_and_images_have_all() -> None:
    owners = [owner(shade) for shade in range(40)]
    assert owners == [owner(shade, NAMES[::-1]) for shade in range(40)]
    assert set(owners) == set(NAMES)


def test_a_lost_replica_changes_its_own_images_alone() -> None:
    before = [owner(shade) for shade in range(40)]
    after = [owner(shade, NAMES[1:]) for shade in range(40)]
    assert all(new == old for new, old in zip(after, before, strict=True) if old != NAMES[0])


@pytest.mark.parametrize(("length", "is_preferred"), [(20, True), (60, False)])
def test_a_much_busier_replica_gets_no_more(length: int, is_preferred: bool) -> None:
    answers = dict.fromkeys(NAMES, 16) | {owner(5): length}
    assert (choose(question(5), answers)[0] == [owner(5)]) == is_preferred


def test_other_calls_go_to_one_of_two_replicas() -> None:
    idle = dict.fromkeys(NAMES, 0)
    for groups in (choose(question(None), idle), choose(b"", idle, "describe"), choose(question(5), idle, "explain")):
        [pair] = groups
        assert len(set(pair)) == 2
    assert choose(question(None), {NAMES[0]: 0}) == [[NAMES[0]]]


def test_the_key_depends_on_the_pixels_alone() -> None:
    other = pack_question(Conversation(Image.new("RGB", (4, 4), (5, 0, 0))), "what?", DEMO, 1.0)
    assert image_key(question(5)) == image_key(other) != image_key(question(6)) != 0
    assert image_key(question(None)) == 0
