"""Tables of measurements: a failing row does not affect other rows."""

import pytest

from benchmarks.parts.table import Comparison, Row, Stage, Table, at_least, at_most


def fail(backend: object) -> float:
    raise RuntimeError("out of | everything\nand more")


def refuse() -> object:
    raise ValueError("no such model")


def rows_of(output: str) -> dict[str, list[str]]:
    """Return the cells after the name of each row, by that name."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()]
    return {first: rest for first, *rest in cells}


def test_a_failure_stops_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("bad", "fails, ms", fail, at_most(3)), Row("good", "works, ms", lambda backend: (2.5, "noted"))]
    table = Table()
    table.run([Stage("none", refuse, rows), Stage("one", object, rows)])
    printed = rows_of(capsys.readouterr().out)
    assert "ValueError: no such model" in printed["none"][1]
    assert printed["one/bad"][1:3] == ["failed: RuntimeError: out of / everything", "at most 3"]
    assert printed["one/good"] == ["works, ms", "2.5", "", "", "noted"]
    assert table.results == {"one/good": 2.5}


def test_only_selected_rows_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("fast-1", "", lambda backend: 1.0), Row("slow", "", fail)]
    table = Table(["one/fast-*"])
    table.run([Stage("none", refuse, rows), Stage("one", object, rows)])
    assert table.results == {"one/fast-1": 1.0}
    assert "failed" not in capsys.readouterr().out


def test_a_ratio_of_one_meets_the_target() -> None:
    assert at_most(10).ratio(5) == 2
    assert at_most(10).ratio(20) == 0.5
    assert at_least(10).ratio(20) == 2
    assert at_least(10).ratio(10) == 1


def test_times_and_rates_are_compared_the_right_way_round(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(results={"a/ms": 2.0, "b/ms": 8.0, "a/rate": 60.0, "b/rate": 30.0})
    table.compare(
        [
            Comparison("time", "a/ms", "b/ms", at_least(2)),
            Comparison("rate", "a/rate", "b/rate", is_time=False),
            Comparison("absent", "a/ms", "c/ms"),
        ]
    )
    printed = rows_of(capsys.readouterr().out)
    assert printed["time"][2:] == ["4.00", "at least 2", "2.00"]
    assert printed["rate"][2:] == ["2.00", "", ""]
    assert "absent" not in printed
