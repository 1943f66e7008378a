"""The coordinator: sums of metrics, and equal files on all nodes."""

from pathlib import Path

import pytest

pytest.importorskip("ray")

from visualglm.scale.coordinator import LOST_AFTER_S, Coordinator, Report
from visualglm.scale.identity import hash_files, model_identity
from visualglm.scale.metrics import Family


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A time that the test sets."""
    now = [100.0]
    monkeypatch.setattr("visualglm.scale.coordinator.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def coordinator(clock: list[float]) -> Coordinator:
    """A coordinator that does not ask Ray Serve for the number of replicas."""
    made = Coordinator()
    made.counted = float("inf")
    return made


def report(source: str, count: int, answers: int) -> Report:
    counter = Family("requests", "Requests", "counter", {("requests_total", ()): count})
    gauge = Family("answers", "Answers", "gauge", {("answers", ()): answers})
    return Report(source, [counter, gauge])


def total(coordinator: Coordinator, name: str) -> float:
    return sum(
        value for family in coordinator.metrics() for (sample, _), value in family.samples.items() if sample == name
    )


def test_metrics_are_the_sum_of_the_latest_reports(coordinator: Coordinator) -> None:
    for one in (report("a", 1, 1), report("b", 5, 2), report("a", 2, 3)):
        coordinator.report(one)
    assert (total(coordinator, "requests_total"), total(coordinator, "answers")) == (7, 5)


def test_counters_of_an_ended_application_stay(coordinator: Coordinator, clock: list[float]) -> None:
    coordinator.report(report("a", 3, 2))
    clock[0] += LOST_AFTER_S + 1
    coordinator.report(report("b", 4, 1))
    assert (total(coordinator, "requests_total"), total(coordinator, "answers")) == (7, 1)


def test_a_node_with_other_files_is_told_which(coordinator: Coordinator) -> None:
    assert coordinator.compare("first", {"model": "1", "program": "2"}) == ""
    assert coordinator.compare("first", {"model": "1", "program": "3"}) == "program"
    assert coordinator.compare("second", {"model": "4", "program": "3"}) == ""


def test_the_failure_of_an_earlier_deployment_is_forgotten(coordinator: Coordinator) -> None:
    coordinator.compare("first", {})
    coordinator.fail("no model")
    assert coordinator.failure_reason() == "no model"
    coordinator.compare("second", {})
    assert coordinator.failure_reason() == ""


def test_models_are_identified_by_their_files(tmp_path: Path) -> None:
    assert model_identity("visualglm-tiny") == model_identity("visualglm-tiny")
    file = tmp_path / "config.json"
    file.write_text("1")
    first = hash_files([file])
    file.write_text("2")
    assert hash_files([file]) != first
