"""Scenes as data, and how they are rendered.

scene = sample_scene(np.random.default_rng(0))
image = render_scene(scene)                          # deterministic: the same bytes for the same scene
kinds, colors = segmentation_map(scene, grid=14)     # per-cell labels, for training
"""

from tiny.scenes.backgrounds import BACKGROUNDS
from tiny.scenes.scene import (
    HELD_OUT,
    MAX_THINGS,
    REGIONS,
    SIZES,
    Scene,
    Thing,
    presence_map,
    region_of,
    render_scene,
    render_sketch,
    sample_scene,
    segmentation_map,
)
from tiny.scenes.shapes import COLORS, KINDS

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "MAX_THINGS",
    "REGIONS",
    "SIZES",
    "Scene",
    "Thing",
    "presence_map",
    "region_of",
    "render_scene",
    "render_sketch",
    "sample_scene",
    "segmentation_map",
]
