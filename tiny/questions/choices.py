"""Candidates for questions: things of a scene, and names of absent things."""

from functools import lru_cache

from tiny.words.sentences import Rng, pick
from visualglm.scenes import COLORS, HELD_OUT, KINDS, REGIONS, Scene, Thing, region_of
from visualglm.scenes.relations import SIDES, is_larger, is_on_side, list_in_region

REDUNDANT_COLOR_RATE = 0.2  # share of the questions about a thing of unambiguous kind that give its color, too


def list_unique(scene: Scene) -> list[Thing]:
    """Return the things whose kind occurs once in the scene."""
    kinds = [thing.kind for thing in scene.things]
    return [thing for thing in scene.things if kinds.count(thing.kind) == 1]


def list_unique_colors(scene: Scene) -> list[Thing]:
    """Return the things whose color occurs once in the scene."""
    colors = [thing.color for thing in scene.things]
    return [thing for thing in scene.things if colors.count(thing.color) == 1]


def sample_name(rng: Rng, scene: Scene, thing: Thing, rate: float = REDUNDANT_COLOR_RATE) -> tuple[str, str | None]:
    """Return the kind and color by which a question names the thing; the color is None if it is omitted."""
    single = all(other == thing or other.kind != thing.kind for other in scene.things)
    return thing.kind, None if single and rng.random() >= rate else thing.color


@lru_cache(maxsize=64)  # several questions in a row are about the same scene
def list_size_pairs(scene: Scene) -> tuple[tuple[Thing, Thing], ...]:
    """Return all unambiguous (larger, smaller) pairs."""
    return tuple((one, other) for one in scene.things for other in scene.things if is_larger(one, other))


def list_side_pairs(scene: Scene) -> list[tuple[Thing, Thing, str]]:
    """Return all unambiguous triples (thing, reference, side): the thing is on that side of the reference."""
    return [
        (one, other, side)
        for one in scene.things
        for other in scene.things
        for side in SIDES
        if one != other and is_on_side(one, other, side)
    ]


@lru_cache(maxsize=64)
def list_references(scene: Scene) -> tuple[tuple[Thing, str, bool], ...]:
    """Return (thing, side, is occupied) for each side that every other thing is clearly on or clearly off."""
    found = []
    for thing in scene.things:
        for side in SIDES:
            verdicts = [is_on_side(other, thing, side) for other in scene.things if other != thing]
            if None not in verdicts:
                found.append((thing, side, any(verdicts)))
    return tuple(found)


def list_regions(scene: Scene) -> tuple[list[str], list[str]]:
    """Return the regions that are unambiguously occupied, and the ones that are unambiguously empty."""
    taken = [region for region in REGIONS if any(region_of(thing) == region for thing in scene.things)]
    full = [region for region in taken if list_in_region(scene.things, region) is not None]
    empty = [region for region in REGIONS if region not in taken and list_in_region(scene.things, region) is not None]
    return full, empty


def is_allowed(scene: Scene, color: str, kind: str) -> bool:
    """Check whether the pair may be named: held-out pairs only if the scene contains them."""
    return (color, kind) not in HELD_OUT or any((t.color, t.kind) == (color, kind) for t in scene.things)


def pick_missing_kind(rng: Rng, scene: Scene) -> str:
    """Sample a kind that the scene lacks."""
    return pick(rng, [kind for kind in KINDS if all(thing.kind != kind for thing in scene.things)])


def pick_missing_color(rng: Rng, scene: Scene) -> str:
    """Sample a color that the scene lacks."""
    return pick(rng, [color for color in COLORS if all(thing.color != color for thing in scene.things)])


def pick_other_color(rng: Rng, scene: Scene, thing: Thing) -> str:
    """Sample a color that no thing of its kind has; half of the time a color of other things."""
    taken = {other.color for other in scene.things if other.kind == thing.kind}
    free = [color for color in COLORS if color not in taken and is_allowed(scene, color, thing.kind)]
    near = [other.color for other in scene.things if other.color in free]
    return pick(rng, near if near and rng.random() < 0.5 else free)


def pick_other_kind(rng: Rng, scene: Scene, thing: Thing) -> str:
    """Sample a kind that no thing of its color has; half of the time a kind of other things."""
    taken = {other.kind for other in scene.things if other.color == thing.color}
    free = [kind for kind in KINDS if kind not in taken and is_allowed(scene, thing.color, kind)]
    near = [other.kind for other in scene.things if other.kind in free]
    return pick(rng, near if near and rng.random() < 0.5 else free)


def pick_missing_name(rng: Rng, scene: Scene) -> tuple[str, str | None]:
    """Sample an absent (kind, color); half of the time only one of the two is wrong."""
    thing, chance = pick(rng, scene.things), rng.random()
    if chance < 0.3:
        return thing.kind, pick_other_color(rng, scene, thing)
    if chance < 0.5:
        return pick_other_kind(rng, scene, thing), thing.color
    kind = pick_missing_kind(rng, scene)
    if chance < 0.8:
        return kind, None
    return kind, pick(rng, [color for color in COLORS if is_allowed(scene, color, kind)])
