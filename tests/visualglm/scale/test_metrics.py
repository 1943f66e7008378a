"""Metrics summed over processes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from visualglm.scale.metrics import export_snapshot, sum_snapshots, take_snapshot, without_gauges


def registry(count: int) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("requests", "Requests", ["path"], registry=made).labels("/").inc(count)
    Gauge("answers", "Answers", registry=made).set(count)
    Histogram("seconds", "Seconds", buckets=(1, 2), registry=made).observe(count)
    return made


def values(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
    return {sample.name + str(sorted(sample.labels.values())): sample.value for sample in samples}


def test_one_snapshot_exports_as_its_registry() -> None:
    made = registry(1)
    assert values(export_snapshot(take_snapshot(made))) == values(generate_latest(made))


def test_sums_add_every_sample() -> None:
    total = values(export_snapshot(sum_snapshots([take_snapshot(registry(1)), take_snapshot(registry(2))])))
    assert total["requests_total['/']"] == total["answers[]"] == total["seconds_sum[]"] == 3
    assert total["seconds_bucket['1.0']"] == 1
    assert total["seconds_bucket['+Inf']"] == 2


def test_gauges_end_with_their_process() -> None:
    left = without_gauges(take_snapshot(registry(1)))
    assert {family.name for family in left} == {"requests", "seconds"}


def test_summing_changes_no_snapshot() -> None:
    first = take_snapshot(registry(1))
    sum_snapshots([first, take_snapshot(registry(2))])
    assert values(export_snapshot(first))["answers[]"] == 1
