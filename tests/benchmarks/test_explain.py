"""The benchmark of explanations: its cases are true, and all rows are measured."""

from itertools import islice

import pytest
import torch

from benchmarks.explain import LANGUAGES, Case, ExplainBenchmark, draw_cases, make_rows
from model import SatChatModel


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case for language in LANGUAGES for case in islice(draw_cases(language), 9)]


def test_each_case_asks_about_things_of_its_scene(cases: list[Case]) -> None:
    for case in cases:
        assert len(case.scene.things) >= 3
        assert case.things
        assert all(thing in case.scene.things for thing in case.things)
        assert case.contains((case.things[0].x, case.things[0].y), 1 / 16)
        assert not case.contains((-1.0, -1.0), 1 / 16)
        assert not case.contains(None, 1 / 16)
        assert 0 < case.area(1 / 16) < 0.5
    assert {case.example.kind for case in cases} == {"colour", "where", "exists"}


def test_cases_do_not_depend_on_their_number() -> None:
    first, again = ([case.scene for case in islice(draw_cases("zh"), count)] for count in (3, 6))
    assert again[:3] == first


@pytest.mark.slow
def test_every_row_is_measured(tiny_model: SatChatModel) -> None:
    benchmark = ExplainBenchmark(tiny_model, 3)
    values = {row.name: row.value(benchmark)[0] for row in make_rows("cpu")}
    assert values["peak/en"] > values["area/en"]
    assert all(value == value for value in values.values())
    one = benchmark.cases("en")[0]
    pixels = tiny_model.image_cache.to_pixels(one.case.image)
    changed = (benchmark.cover_patches(one, None) != pixels).any(1).float().mean()
    assert torch.isclose(changed, torch.tensor(0.1), atol=0.01)
