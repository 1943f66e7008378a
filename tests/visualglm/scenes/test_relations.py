"""Relations between things are asserted only if they are unambiguous."""

import math

import numpy as np
import pytest

from visualglm.scenes import KINDS, REGIONS, SIZES, Thing, region_of, sample_scene
from visualglm.scenes.relations import (
    OPPOSITES,
    SIDES,
    are_confusable,
    find_extreme,
    is_larger,
    is_on_side,
    kind_dimensions,
    list_in_region,
    list_largest,
    list_on_side,
    sort_reading_order,
)


def thing(kind: str = "ball", size: str = "medium", x: float = 0.5, y: float = 0.5, color: str = "red") -> Thing:
    return Thing(kind, color, size, x, y)


@pytest.mark.parametrize(("kind", "area", "side"), [("ball", math.pi, 2), ("box", 2, math.sqrt(2))])
def test_measures_of_simple_shapes(kind: str, area: float, side: float) -> None:
    measured = kind_dimensions(kind)
    assert measured[0] == pytest.approx(area, rel=0.02)
    assert measured[1] == pytest.approx(side, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_covers_more_than_its_circle(kind: str) -> None:
    area, side = kind_dimensions(kind)
    assert 0.5 < area <= math.pi * 1.02
    assert 1 < side <= 2.001


def test_larger_is_beyond_doubt() -> None:
    assert is_larger(thing(size="large"), thing(size="small"))
    assert not is_larger(thing(size="small"), thing(size="large"))
    assert not is_larger(thing(), thing(color="blue"))
    # a ball has a larger area than a car, but is not longer
    assert not is_larger(thing("ball"), thing("car"))
    assert not is_larger(thing("car"), thing("ball"))


def test_larger_is_an_order() -> None:
    things = [thing(kind, size) for kind in KINDS for size in SIZES]
    larger = {(a, b) for a in range(len(things)) for b in range(len(things)) if is_larger(things[a], things[b])}
    assert not any((b, a) in larger for a, b in larger)
    assert all((a, d) in larger for a, b in larger for c, d in larger if b == c)


def test_extremes_are_larger_or_smaller_than_every_other_thing() -> None:
    rng, found = np.random.default_rng(0), 0
    for _ in range(300):
        things = sample_scene(rng, 5).things
        largest, smallest = find_extreme(things, "largest"), find_extreme(things, "smallest")
        if largest is not None:
            found += 1
            assert all(is_larger(largest, other) for other in things if other != largest)
            assert list_largest(things) == [largest]
        if smallest is not None:
            assert all(is_larger(other, smallest) for other in things if other != smallest)
        if len(things) > 1 and len(list_largest(things)) == 1:
            assert largest == list_largest(things)[0]
    assert found > 30
    assert find_extreme([thing()], "largest") is None


@pytest.mark.parametrize("side", SIDES)
def test_sides_have_opposites(side: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        for one in (things := sample_scene(rng, 5).things):
            for other in things:
                if one != other and is_on_side(one, other, side):
                    assert is_on_side(other, one, side) is False
                    assert is_on_side(other, one, OPPOSITES[side])


def test_small_offsets_are_ambiguous() -> None:
    car = thing("car", x=0.5, y=0.5)
    for offset, expected in ((0.2, True), (0.1, None), (0.02, False), (-0.3, False)):
        assert is_on_side(thing(x=0.5 - offset), car, "left") is expected
        assert is_on_side(thing(x=0.5 + offset), car, "right") is expected
        assert is_on_side(thing(y=0.5 - offset), car, "above") is expected
        assert is_on_side(thing(y=0.5 + offset), car, "below") is expected


def test_a_side_with_an_ambiguous_thing_has_no_list() -> None:
    car, near, far = thing("car"), thing("star", x=0.4), thing("tree", x=0.2)
    assert list_on_side([car, far], car, "left") == [far]
    assert list_on_side([car, far], car, "right") == []
    assert list_on_side([car, near, far], car, "left") is None


def test_a_corner_lies_on_the_side_too() -> None:
    confusable = {frozenset((a, b)) for a in REGIONS for b in REGIONS if are_confusable(a, b)}
    assert len(confusable) == 8
    assert not are_confusable("left", "right")
    corner, top = thing(x=0.1, y=0.1), thing(x=0.5, y=0.1, color="blue")
    assert list_in_region([corner, top], "top left") == [corner]
    assert list_in_region([corner, top], "top") is None
    assert list_in_region([top], "top") == [top]
    assert list_in_region([top], "bottom") == []


def test_reading_order_is_by_region() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ordered = sort_reading_order(sample_scene(rng, 5).things)
        regions = [REGIONS.index(region_of(one)) for one in ordered]
        assert regions == sorted(regions)
