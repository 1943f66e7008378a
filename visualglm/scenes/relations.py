"""Unambiguous relations between things: size and position.

If people might disagree about a relation, functions return None or False, and no question or answer mentions it.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from visualglm.scenes.scene import Thing, region_of
from visualglm.scenes.shapes import shape_of, transform_polygon

MIN_AREA_RATIO = 1.35  # of an unambiguously larger thing to a smaller one
MIN_LENGTH_RATIO = 1.1  # ratio of the longer sides of their bounding boxes
MIN_SIDE_OFFSET = 0.15  # offset along the axis from which a thing is on that side
MAX_OTHER_OFFSET = 0.05  # offset up to which it is not on that side

OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIDES = tuple(OPPOSITES)


def sort_reading_order(things: Iterable[Thing]) -> list[Thing]:
    """Sort things in reading order: by row of regions, then region, then x within a region."""
    return sorted(things, key=lambda thing: (min(int(3 * thing.y), 2), min(int(3 * thing.x), 2), thing.x))


@cache
def kind_dimensions(kind: str) -> tuple[float, float]:
    """Return the area and the longer bounding-box side of a thing of radius 1."""
    parts = shape_of(kind).silhouette
    scale = 200  # pixels per unit
    canvas = Image.new("1", (2 * scale + 2, 2 * scale + 2))
    draw = ImageDraw.Draw(canvas)
    for part in parts:  # drawn, since overlapping parts would be counted twice
        draw.polygon(transform_polygon(part, scale + 1, scale + 1, scale, 0, False), fill=1)
    points = np.concatenate(parts)
    longer = float((points.max(axis=0) - points.min(axis=0)).max())
    return float(np.asarray(canvas).sum()) / scale**2, longer


def is_larger(thing: Thing, other: Thing) -> bool:
    """Check whether `thing` is unambiguously larger than `other`, in area and in length."""
    (area, side), (other_area, other_side) = kind_dimensions(thing.kind), kind_dimensions(other.kind)
    ratio = thing.radius / other.radius
    return area * ratio**2 >= MIN_AREA_RATIO * other_area and side * ratio >= MIN_LENGTH_RATIO * other_side


def find_extreme(things: Sequence[Thing], way: str) -> Thing | None:
    """Return the unambiguously "largest" or "smallest" of at least two things, or None."""
    if len(things) < 2:
        return None
    extreme = (max if way == "largest" else min)(
        things, key=lambda thing: kind_dimensions(thing.kind)[0] * thing.radius**2
    )
    for other in things:
        larger, smaller = (extreme, other) if way == "largest" else (other, extreme)
        if other != extreme and not is_larger(larger, smaller):
            return None
    return extreme


def list_largest(things: Sequence[Thing]) -> list[Thing]:
    """Return all things that may be the largest: no other thing is unambiguously larger."""
    return [thing for thing in things if not any(is_larger(other, thing) for other in things)]


def is_on_side(thing: Thing, other: Thing, side: str) -> bool | None:
    """Check whether `thing` is on that side of `other`, one of SIDES; None if ambiguous."""
    match side:
        case "left":
            distance = other.x - thing.x
        case "right":
            distance = thing.x - other.x
        case "above":
            distance = other.y - thing.y
        case _:
            distance = thing.y - other.y
    if distance >= MIN_SIDE_OFFSET:
        return True
    return False if distance <= MAX_OTHER_OFFSET else None


def list_on_side(things: Sequence[Thing], other: Thing, side: str) -> list[Thing] | None:
    """Return the things on that side of `other`, in reading order; None if one is ambiguous."""
    verdicts = [(thing, is_on_side(thing, other, side)) for thing in things if thing != other]
    if any(verdict is None for _, verdict in verdicts):
        return None
    return sort_reading_order(thing for thing, verdict in verdicts if verdict)


def are_confusable(region: str, other: str) -> bool:
    """Check whether one region's name may include the second: a corner is also at the top and on the left."""
    words, others = set(region.split()), set(other.split())
    return region != other and (words < others or others < words)


def list_in_region(things: Sequence[Thing], region: str) -> list[Thing] | None:
    """Return the things in a region, in reading order; None if another thing may count as in it."""
    if " " not in region and any(are_confusable(region, region_of(thing)) for thing in things):
        return None
    return sort_reading_order(thing for thing in things if region_of(thing) == region)
