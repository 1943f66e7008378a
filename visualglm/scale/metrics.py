"""Sum the Prometheus metrics of several processes; counters of processes that have ended stay in the sum."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

Labels = tuple[tuple[str, str], ...]
CREATED = "_created"  # suffix of a sample with the time at which a counter began


@dataclass
class Family:
    """The samples of one metric.

    Attributes:
        kind: type of the metric, such as "counter".
        samples: value for each (name, labels).
    """

    name: str
    text: str
    kind: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def add(self, other: "Family") -> None:
        """Add the samples of another process; creation times become the earliest."""
        for key, value in other.samples.items():
            if key not in self.samples:
                self.samples[key] = value
            elif key[0].endswith(CREATED):
                self.samples[key] = min(self.samples[key], value)
            else:
                self.samples[key] += value


Snapshot = list[Family]


def take_snapshot(registry: CollectorRegistry) -> Snapshot:
    """Return the metrics of a process as plain values."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            {(one.name, tuple(sorted(one.labels.items()))): float(one.value) for one in metric.samples},
        )
        for metric in registry.collect()
    ]


def sum_snapshots(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of the metrics of several processes."""
    total: dict[str, Family] = {}
    for snapshot in snapshots:
        for family in snapshot:
            total.setdefault(family.name, Family(family.name, family.text, family.kind)).add(family)
    return list(total.values())


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """Return the metrics that remain valid after their process has ended."""
    return [family for family in snapshot if family.kind != "gauge"]


class SnapshotCollector:
    """Shows a snapshot as metrics of a registry."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        for family in self.snapshot:
            metric = Metric(family.name, family.text, family.kind)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def export_snapshot(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))  # type: ignore[arg-type]
    return generate_latest(registry)
