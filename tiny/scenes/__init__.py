"""Scenes: a picture as data first, drawn second.

scene = sample_scene(np.random.default_rng(0))
picture = draw_scene(scene)                   # always the same bytes for the same scene
kinds, colors = object_map(scene, grid=14)   # what is where, for training
"""

from tiny.scenes.backgrounds import BACKGROUNDS
from tiny.scenes.scene import (
    HELD_OUT,
    MOST_THINGS,
    REGIONS,
    SIZES,
    Scene,
    Thing,
    draw_scene,
    draw_sketch,
    object_map,
    place_map,
    region,
    sample_scene,
)
from tiny.scenes.shapes import COLORS, KINDS

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "MOST_THINGS",
    "REGIONS",
    "SIZES",
    "Scene",
    "Thing",
    "draw_scene",
    "draw_sketch",
    "object_map",
    "place_map",
    "region",
    "sample_scene",
]
