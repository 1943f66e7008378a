"""Curves of runs have one line for each run and number, and each run has its own dash pattern."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from finetune.curves import (
    COLORS,
    DASHES,
    MAX_POINTS,
    Curve,
    Panel,
    axis_range,
    draw_figure,
    draw_separately,
    format_number,
    reduce_points,
    ticks,
)
from finetune.plot import main
from finetune.run_curves import curves_of_run
from finetune.run_log import LOG_NAME, read_run_log
from tests.finetune.test_run_log import losses, write_log

SVG = "{http://www.w3.org/2000/svg}"
WITH_METRICS = [
    {"step": 1, "loss": 2.0, "lr": 1e-4, "tokens_per_s": 9.0, "left_s": 1.0},
    {"step": 1, "valid_loss": 3.0, "valid_exact": 0.5, "valid_chrf": 20.0, "samples": []},
    {"step": 2, "loss": 1.5, "lr": 1e-4},
]


def polylines(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}polyline"))


def titles(svg: str) -> str:
    return " ".join("".join(part.itertext()) for part in ET.fromstring(svg).iter(f"{SVG}text"))


def test_losses_rate_and_every_metric_are_drawn_and_nothing_else(tmp_path: Path) -> None:
    legend, panels = curves_of_run(read_run_log(write_log(tmp_path, *WITH_METRICS)))
    assert [panel.title for panel in panels] == ["loss", "learning rate", "exact answers (share)", "chrf (%)"]
    assert [len(panel.curves) for panel in panels] == [2, 1, 1, 1]
    svg = draw_figure("label", legend, panels)
    assert len(polylines(svg)) == 5 + len(legend)
    assert "loss" in titles(svg)
    assert not re.search(r"nan|inf", svg)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1.0, 2.0], [1e-9, 2e-9], [1e12, -1e12], [0.0, 1e-300]])
def test_all_values_lie_on_the_axis(values: list[float]) -> None:
    low, high = axis_range(values)
    assert low <= min(values) <= max(values) < high
    assert 1 <= len(ticks(low, high)) <= 12


@pytest.mark.parametrize("points", [[(0, 0.0)], [(7, 1.0)], [(1, 1.0), (10**7, 3.0)]])
def test_any_number_of_steps_can_be_drawn(points: list[tuple[int, float]]) -> None:
    svg = draw_figure("label", ["a"], [Panel("loss", [Curve(points)])])
    numbers = [float(number) for part in polylines(svg) for number in re.findall(r"[-\d.]+", part.attrib["points"])]
    assert all(math.isfinite(number) and 0 <= number <= 420 for number in numbers)


def test_long_curves_keep_their_extremes() -> None:
    points = [(step, math.sin(step)) for step in range(1, 100_000)]
    points[777], points[5000] = (778, 99.0), (5001, -99.0)
    kept = reduce_points(points)
    assert len(kept) <= MAX_POINTS + 2
    assert {(778, 99.0), (5001, -99.0)} <= {*kept}
    assert kept == sorted(kept)


def test_curves_differ_in_color_and_dashes() -> None:
    panel = Panel("loss", [Curve([(1, 1.0), (2, 2.0)], style) for style in range(len(COLORS) * len(DASHES))])
    lines = polylines(draw_figure("label", [""], [panel]))
    looks = [(line.attrib["stroke"], line.attrib.get("stroke-dasharray")) for line in lines]
    assert len({*looks}) == len(looks)
    assert len({dash for _, dash in looks[: len(DASHES)]}) == len(DASHES)  # without color, too


def test_names_are_escaped() -> None:
    panels = [Panel("<b>", [Curve([(1, 1.0)])])]
    for drawing in (draw_figure('"<&', ["<script>", "b"], panels), draw_separately(["<script>", "b"], panels)):
        ET.fromstring(drawing)
        assert "<script>" not in drawing


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (2e-5, "2.0e-05"), (0.5, "0.5"), (1500, "1,500"), (2e4, "20k")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_several_runs_are_drawn_over_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_log(tmp_path / name, *losses(1, 2, 3, value=len(name))) for name in ("one", "two", "third")]
    output = tmp_path / "all.svg"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    svg = output.read_text(encoding="utf-8")
    assert len(polylines(svg)) == 3 + 3
    assert all(name in titles(svg) for name in ("one", "two", "third"))


def test_a_run_without_a_number_has_no_curve_of_it(tmp_path: Path) -> None:
    runs = [write_log(tmp_path / "one", *WITH_METRICS), write_log(tmp_path / "two", *losses(1, 2))]
    assert main([*map(str, runs), "--output", str(tmp_path / "a.html")]) == 0
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "chrf (%)" in page
    assert page.count("<h2>") == 2


def test_runs_of_one_name_have_their_paths_in_the_legend_and_each_is_drawn_once(tmp_path: Path) -> None:
    runs = [write_log(tmp_path / part / "run", *losses(1, 2)) for part in "ab"]
    assert main([*map(str, [*runs, runs[0], runs[0] / LOG_NAME]), "--output", str(tmp_path / "c.svg")]) == 0
    svg = (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert len(polylines(svg)) == 2 + 2
    assert all(str(run) in titles(svg) for run in runs)


def test_the_default_output_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "run", *losses(1))
    assert main(["run"]) == 0
    ET.fromstring((tmp_path / "curves.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "does not exist"),
        (["empty"], "no numbers"),
        (["run", "--output", "a.png"], ".svg"),
        (["run", "--output", "no/a.svg"], "cannot be written"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "run", *losses(1))
    write_log(tmp_path / "empty")
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
