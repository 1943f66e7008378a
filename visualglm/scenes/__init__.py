"""The drawn world of visualglm-tiny: scenes as data, how they are rendered, and questions with true answers.

drawn = draw_scene(seed=0)                           # .image, .questions
scene = sample_scene(np.random.default_rng(0))
image = render_scene(scene)                          # deterministic: the same bytes for the same scene
kinds, colors = segmentation_map(scene, grid=14)     # per-cell labels, for training
"""

from visualglm.scenes.backgrounds import BACKGROUNDS
from visualglm.scenes.drawing import DrawnScene, SceneQuestion, draw_scene
from visualglm.scenes.scene import (
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
from visualglm.scenes.shapes import COLORS, KINDS

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "MAX_THINGS",
    "REGIONS",
    "SIZES",
    "DrawnScene",
    "Scene",
    "SceneQuestion",
    "Thing",
    "draw_scene",
    "presence_map",
    "region_of",
    "render_scene",
    "render_sketch",
    "sample_scene",
    "segmentation_map",
]
