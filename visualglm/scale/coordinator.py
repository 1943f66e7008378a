"""The coordinator: an actor that sums the metrics, counts the replicas, and compares the files of the nodes."""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from .metrics import Family, Snapshot, sum_snapshots, without_gauges
from .names import APPLICATION, COORDINATOR, MODEL_DEPLOYMENT, NAMESPACE

REPORT_INTERVAL_S = 1.0  # between the reports of an HTTP application
LOST_AFTER_S = 5.0  # without a report, an HTTP application has ended
STATUS_INTERVAL_S = 2.0  # Ray Serve's status costs its controller tens of milliseconds
RUNNING = "RUNNING"


@dataclass(frozen=True)
class Report:
    """The state of one HTTP application.

    Attributes:
        source: identifies the application.
        metrics: its metrics.
    """

    source: str
    metrics: Snapshot


class Coordinator:
    """Keeps the latest report of each HTTP application."""

    def __init__(self) -> None:
        self.reports: OrderedDict[str, tuple[float, Report]] = OrderedDict()
        self.ended: Snapshot = []
        self.failure = ""
        self.deployment = ""
        self.files: dict[str, str] = {}
        self.replicas: int | None = None
        self.counted = 0.0

    def report(self, report: Report) -> int | None:
        """Store a report; return the number of model replicas that accept questions, None if it is unknown."""
        self.reports[report.source] = time.monotonic(), report
        self._drop_lost()
        self._count_replicas()
        return self.replicas

    def metrics(self) -> Snapshot:
        """Return the sum of all metrics, with the number of replicas."""
        self._drop_lost()
        total = sum_snapshots([self.ended, *(report.metrics for _, report in self.reports.values())])
        if self.replicas is not None:
            name = "visualglm_replicas"
            total.append(Family(name, "Replicas of the model", "gauge", {(name, ()): self.replicas}))
        return total

    def compare(self, deployment: str, files: Mapping[str, str]) -> str:
        """Compare the file hashes of a node with the first replica of the deployment.

        Returns:
            The first name whose hash differs; "" if all are the same.
        """
        if deployment != self.deployment:
            self.deployment, self.files, self.failure = deployment, dict(files), ""
        return next((name for name, value in files.items() if self.files.get(name) != value), "")

    def fail(self, reason: str) -> None:
        """Store the reason why a replica cannot start."""
        self.failure = reason

    def failure_reason(self) -> str:
        """Return the latest reason of `fail`, "" if there is none."""
        return self.failure

    def _drop_lost(self) -> None:
        """Remove the reports of applications that have ended; keep their counters."""
        oldest = time.monotonic() - LOST_AFTER_S
        for source, (moment, report) in list(self.reports.items()):
            if moment < oldest:
                self.ended = sum_snapshots([self.ended, without_gauges(report.metrics)])
                del self.reports[source]

    def _count_replicas(self) -> None:
        """Ask Ray Serve for the number of running replicas, at most once per interval."""
        if time.monotonic() - self.counted < STATUS_INTERVAL_S:
            return
        self.counted = time.monotonic()
        with contextlib.suppress(Exception):  # Ray Serve is starting or stopping
            application = serve.status().applications[APPLICATION]
            states: dict[Any, int] = dict(application.deployments[MODEL_DEPLOYMENT].replica_states)
            self.replicas = sum(count for state, count in states.items() if getattr(state, "value", state) == RUNNING)


def get_coordinator() -> Any:
    """Return the handle of the coordinator, which the first caller starts."""
    actor: Any = ray.remote(Coordinator)
    options = {"name": COORDINATOR, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return actor.options(**options, num_cpus=0, max_restarts=-1).remote()
