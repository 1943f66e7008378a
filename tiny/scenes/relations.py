"""What can be said beyond doubt about the sizes and places of things in comparison.

Where people might disagree a function answers None or False, and nothing is asked or said.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from tiny.scenes.scene import Thing, region
from tiny.scenes.shapes import shape_of, transform_polygon

MIN_AREA_RATIO = 1.35  # least ratio of the areas of a larger and a smaller thing
MIN_LENGTH_RATIO = 1.1  # and of the longer sides of the boxes around them
MIN_SIDE_OFFSET = 0.15  # least distance at which a thing is to the left of another, along that axis
MAX_OTHER_OFFSET = 0.05  # largest distance at which it certainly is not

OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIDES = tuple(OPPOSITES)


def sort_reading_order(things: Iterable[Thing]) -> list[Thing]:
    """Reading order: region by region, row by row, and from left to right within a region."""
    return sorted(things, key=lambda thing: (min(int(3 * thing.y), 2), min(int(3 * thing.x), 2), thing.x))


@cache
def kind_dimensions(kind: str) -> tuple[float, float]:
    """The area and the longer side of the box around a thing of radius 1."""
    parts = shape_of(kind).silhouette
    scale = 200  # pixels per unit
    canvas = Image.new("1", (2 * scale + 2, 2 * scale + 2))
    draw = ImageDraw.Draw(canvas)
    for part in parts:  # they overlap, so their areas do not add up
        draw.polygon(transform_polygon(part, scale + 1, scale + 1, scale, 0, False), fill=1)
    points = np.concatenate(parts)
    longer = float((points.max(axis=0) - points.min(axis=0)).max())
    return float(np.asarray(canvas).sum()) / scale**2, longer


def is_larger(thing: Thing, other: Thing) -> bool:
    """Whether `thing` is larger than `other` beyond doubt: in area and in length."""
    (area, side), (other_area, other_side) = kind_dimensions(thing.kind), kind_dimensions(other.kind)
    ratio = thing.radius / other.radius
    return area * ratio**2 >= MIN_AREA_RATIO * other_area and side * ratio >= MIN_LENGTH_RATIO * other_side


def find_extreme(things: Sequence[Thing], way: str) -> Thing | None:
    """The one that is the "largest" or "smallest" of at least two beyond doubt, or None."""
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
    """All that may pass for the largest: nothing is larger beyond doubt."""
    return [thing for thing in things if not any(is_larger(other, thing) for other in things)]


def is_on_side(thing: Thing, other: Thing, side: str) -> bool | None:
    """Whether `thing` is on that side of `other`, one of SIDES; None if in doubt."""
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
    """All things on that side of `other`, in reading order; None if one is in doubt."""
    verdicts = [(thing, is_on_side(thing, other, side)) for thing in things if thing != other]
    if any(verdict is None for _, verdict in verdicts):
        return None
    return sort_reading_order(thing for thing, verdict in verdicts if verdict)


def are_confusable(place: str, other: str) -> bool:
    """Whether people may mean one region by the name of the other: a corner lies at the top and on the left too."""
    words, others = set(place.split()), set(other.split())
    return place != other and (words < others or others < words)


def list_in_region(things: Sequence[Thing], place: str) -> list[Thing] | None:
    """All things in a region, in reading order; None if others lie where people may mean it too."""
    if " " not in place and any(are_confusable(place, region(thing)) for thing in things):
        return None
    return sort_reading_order(thing for thing in things if region(thing) == place)
