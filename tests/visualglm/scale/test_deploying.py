"""The start of a deployment."""

from types import SimpleNamespace
from typing import Any

import pytest

from visualglm.scale.errors import ClusterError

ray = pytest.importorskip("ray")


class LostActorError(ray.exceptions.ActorDiedError):  # type: ignore[misc, name-defined]
    """The coordinator has died, for a reason."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("The actor died.\nModuleNotFoundError: No module named 'visualglm'", ClusterError),
        ("The node is out of memory.", LostActorError),
    ],
)
def test_nodes_without_the_project_are_named_as_the_cause(
    reason: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    from visualglm.scale import deploying

    def get(_: Any) -> None:
        raise LostActorError(reason)

    coordinator = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr(deploying, "get_coordinator", lambda: coordinator)
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(kind, match=reason.splitlines()[-1]):
        deploying.start_coordinator()
