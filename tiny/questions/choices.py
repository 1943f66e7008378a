"""What a question may be about: the things of a scene, and names that are not there."""

from functools import lru_cache

from tiny.scenes import COLORS, HELD_OUT, KINDS, REGIONS, Scene, Thing, region
from tiny.scenes.relations import SIDES, is_larger, is_on_side, list_in_region
from tiny.words.sentences import Rng, pick

NAMED_RATE = 0.2  # how often a question gives a color that it could leave out


def list_unique(scene: Scene) -> list[Thing]:
    """The things that are the only one of their kind."""
    kinds = [thing.kind for thing in scene.things]
    return [thing for thing in scene.things if kinds.count(thing.kind) == 1]


def list_unique_colors(scene: Scene) -> list[Thing]:
    """The things that are the only one of their color."""
    colors = [thing.color for thing in scene.things]
    return [thing for thing in scene.things if colors.count(thing.color) == 1]


def sample_name(rng: Rng, scene: Scene, thing: Thing, rate: float = NAMED_RATE) -> tuple[str, str | None]:
    """Kind and color by which a question names the thing; the color is None where it is left out."""
    single = all(other == thing or other.kind != thing.kind for other in scene.things)
    return thing.kind, None if single and rng.random() >= rate else thing.color


@lru_cache(maxsize=64)  # a scene is asked about several times in a row
def list_size_pairs(scene: Scene) -> tuple[tuple[Thing, Thing], ...]:
    """(larger, smaller) wherever that is beyond doubt."""
    return tuple((one, other) for one in scene.things for other in scene.things if is_larger(one, other))


def list_side_pairs(scene: Scene) -> list[tuple[Thing, Thing, str]]:
    """(thing, other, side) wherever it is beyond doubt that the thing is on that side of the other."""
    return [
        (one, other, side)
        for one in scene.things
        for other in scene.things
        for side in SIDES
        if one != other and is_on_side(one, other, side)
    ]


@lru_cache(maxsize=64)
def list_references(scene: Scene) -> tuple[tuple[Thing, str, bool], ...]:
    """(thing, side, whether anything is there) wherever all that is on that side is beyond doubt."""
    found = []
    for thing in scene.things:
        for side in SIDES:
            verdicts = [is_on_side(other, thing, side) for other in scene.things if other != thing]
            if None not in verdicts:
                found.append((thing, side, any(verdicts)))
    return tuple(found)


def list_regions(scene: Scene) -> tuple[list[str], list[str]]:
    """The regions that hold something and those that hold nothing, beyond doubt."""
    taken = [place for place in REGIONS if any(region(thing) == place for thing in scene.things)]
    full = [place for place in taken if list_in_region(scene.things, place) is not None]
    empty = [place for place in REGIONS if place not in taken and list_in_region(scene.things, place) is not None]
    return full, empty


def is_allowed(scene: Scene, color: str, kind: str) -> bool:
    """Whether the pair may be named: no pair that is held out, unless the picture shows it."""
    return (color, kind) not in HELD_OUT or any((t.color, t.kind) == (color, kind) for t in scene.things)


def pick_missing_kind(rng: Rng, scene: Scene) -> str:
    """A kind that is not there."""
    return pick(rng, [kind for kind in KINDS if all(thing.kind != kind for thing in scene.things)])


def pick_missing_color(rng: Rng, scene: Scene) -> str:
    """A color that nothing there has."""
    return pick(rng, [color for color in COLORS if all(thing.color != color for thing in scene.things)])


def pick_other_color(rng: Rng, scene: Scene, thing: Thing) -> str:
    """A color that no thing of its kind has, half of the time one that other things have."""
    taken = {other.color for other in scene.things if other.kind == thing.kind}
    free = [color for color in COLORS if color not in taken and is_allowed(scene, color, thing.kind)]
    near = [other.color for other in scene.things if other.color in free]
    return pick(rng, near if near and rng.random() < 0.5 else free)


def pick_other_kind(rng: Rng, scene: Scene, thing: Thing) -> str:
    """A kind that no thing of its color has, half of the time one that other things have."""
    taken = {other.kind for other in scene.things if other.color == thing.color}
    free = [kind for kind in KINDS if kind not in taken and is_allowed(scene, thing.color, kind)]
    near = [other.kind for other in scene.things if other.kind in free]
    return pick(rng, near if near and rng.random() < 0.5 else free)


def pick_missing_name(rng: Rng, scene: Scene) -> tuple[str, str | None]:
    """A (kind, color) that is not there; half of the time only the color or only the kind is wrong."""
    thing, chance = pick(rng, scene.things), rng.random()
    if chance < 0.3:
        return thing.kind, pick_other_color(rng, scene, thing)
    if chance < 0.5:
        return pick_other_kind(rng, scene, thing), thing.color
    kind = pick_missing_kind(rng, scene)
    if chance < 0.8:
        return kind, None
    return kind, pick(rng, [color for color in COLORS if is_allowed(scene, color, kind)])
