"""Scenes are reproducible, obey their constraints, and have correct label maps."""

import colorsys
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from visualglm.scenes import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    KINDS,
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
from visualglm.scenes.shapes import PAINTS, shape_of, transform_polygon


def scenes(count: int, max_things: int = 5, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, max_things) for _ in range(count)]


def single(kind: str = "ball", color: str = "red", background: str = "sky", seed: int = 0) -> Scene:
    return Scene(background, (Thing(kind, color, "medium", 0.5, 0.5),), seed)


def mask_of(thing: Thing, side: int) -> np.ndarray:
    canvas = Image.new("1", (side, side))
    draw = ImageDraw.Draw(canvas)
    pose = (thing.x * side, thing.y * side, thing.radius * side, thing.angle, thing.flipped)
    for part in shape_of(thing.kind).silhouette:
        draw.polygon(transform_polygon(part, *pose), fill=1)
    return np.asarray(canvas)


def name_of(rgb: np.ndarray) -> str:
    """Return the color name of an RGB value: black if dark, white if pale, otherwise by hue."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
    if value < 0.3:
        return "black"
    if saturation < 0.25:
        return "white"
    hues = {color: sum(paint[0]) / 2 for color, paint in PAINTS.items() if color not in ("black", "white")}
    return min(hues, key=lambda color: abs((360 * hue - hues[color] + 180) % 360 - 180))


def test_same_scene_same_bytes() -> None:
    for scene in scenes(8):
        image = render_scene(scene)
        assert image.mode == "RGB"
        assert image.size == (224, 224)
        assert image.tobytes() == render_scene(scene).tobytes()
        assert image.tobytes() == render_scene(Scene.from_json(scene.to_json())).tobytes()


def test_same_seed_same_scenes() -> None:
    assert scenes(20) == scenes(20)
    assert scenes(20) != scenes(20, seed=1)


def test_another_seed_another_texture() -> None:
    for background in BACKGROUNDS:
        images = {render_scene(single(background=background, seed=seed), 64).tobytes() for seed in range(3)}
        assert len(images) == 3


@pytest.mark.parametrize("size", [32, 56, 112, 336])
def test_every_size_can_be_drawn(size: int) -> None:
    for background in BACKGROUNDS:
        assert render_scene(single(background=background), size).size == (size, size)


def test_json_round_trip() -> None:
    for scene in scenes(20):
        assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize("field", ["background", "things"])
def test_incomplete_json_is_refused(field: str) -> None:
    fields = json.loads(single().to_json())
    del fields[field]
    with pytest.raises(ValueError, match=field):
        Scene.from_json(json.dumps(fields))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="ball"):
        Thing("zeppelin", "red", "small", 0.5, 0.5)
    with pytest.raises(ValueError, match="purple"):
        Thing("ball", "mauve", "small", 0.5, 0.5)
    with pytest.raises(ValueError, match="brick wall"):
        Scene("moonscape", (), 0)


def test_held_out_pairs_occur_only_on_request() -> None:
    def pairs(scene: Scene) -> list[bool]:
        return [(thing.color, thing.kind) in HELD_OUT for thing in scene.things]

    assert not any(any(pairs(scene)) for scene in scenes(500))
    rng = np.random.default_rng(0)
    held_out = [sample_scene(rng, held_out=True) for _ in range(300)]
    assert all(sum(pairs(scene)) == 1 for scene in held_out)
    met = {(thing.color, thing.kind) for scene in held_out for thing in scene.things}
    assert met >= HELD_OUT
    assert {color for color, _ in HELD_OUT} == set(COLORS)


def test_sizes_do_not_overlap() -> None:
    radii = {size: [t.radius for s in scenes(300) for t in s.things if t.size == size] for size in SIZES}
    assert all(len(set(found)) > 50 for found in radii.values())
    assert max(radii["small"]) * 1.2 < min(radii["medium"]) and max(radii["medium"]) * 1.2 < min(radii["large"])


def test_a_sketch_has_a_plain_ground() -> None:
    scene = single(kind="ball", color="red")
    rng = np.random.default_rng(0)
    for _ in range(10):
        pixels = np.asarray(render_sketch(scene, 112, rng))
        assert (pixels[:10] == pixels[0, 0]).all()
        assert name_of(pixels[56, 56].astype(float)) == "red"


@pytest.mark.parametrize("max_things", [0, 6])
def test_unfit_number_of_things_is_refused(max_things: int) -> None:
    with pytest.raises(ValueError, match="max_things"):
        sample_scene(np.random.default_rng(0), max_things)


def test_sampled_scenes_obey_their_constraints() -> None:
    counts, kinds, colors, regions, backgrounds = (set() for _ in range(5))
    for scene in scenes(400):
        names = [(thing.kind, thing.color) for thing in scene.things]
        assert len(set(names)) == len(names)
        counts.add(len(names))
        backgrounds.add(scene.background)
        for thing in scene.things:
            kinds.add(thing.kind)
            colors.add(thing.color)
            regions.add(region_of(thing))
            assert all(thing.radius < coordinate < 1 - thing.radius for coordinate in (thing.x, thing.y))
            assert all(abs(coordinate - line) > 0.039 for coordinate in (thing.x, thing.y) for line in (1 / 3, 2 / 3))
    assert counts == {1, 2, 3, 4, 5}
    assert (kinds, colors) == (set(KINDS), set(COLORS))
    assert (regions, backgrounds) == (set(REGIONS), set(BACKGROUNDS))


def test_most_of_every_thing_can_be_seen() -> None:
    for scene in scenes(150):
        masks = [mask_of(thing, 112) for thing in scene.things]
        for number, mask in enumerate(masks):
            covered = mask & np.any([np.zeros_like(mask), *masks[number + 1 :]], axis=0)
            assert covered.sum() <= 0.3 * mask.sum(), scene


def test_things_of_one_region_have_a_clear_order() -> None:
    for scene in scenes(200):
        for thing in scene.things:
            same = [other for other in scene.things if region_of(other) == region_of(thing) and other != thing]
            assert all(abs(thing.x - other.x) >= 0.08 for other in same)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (0.1, 0.1, "top left"),
        (0.33, 0.33, "top left"),
        (0.34, 0.33, "top"),
        (0.9, 0.2, "top right"),
        (0.2, 0.5, "left"),
        (0.34, 0.66, "centre"),
        (0.67, 0.66, "right"),
        (0.33, 0.67, "bottom left"),
        (0.5, 0.9, "bottom"),
        (1.0, 1.0, "bottom right"),
    ],
)
def test_regions_are_thirds(x: float, y: float, name: str) -> None:
    assert region_of(Thing("ball", "red", "small", x, y)) == name


@pytest.mark.parametrize("color", COLORS)
def test_every_kind_has_the_color_that_it_is_named_by(color: str) -> None:
    for number, kind in enumerate(KINDS):
        for size in SIZES:
            thing = Thing(kind, color, size, 0.5, 0.5, 5.0)
            scene = Scene(BACKGROUNDS[(number + COLORS.index(color)) % 8], (thing,), number)
            body = np.asarray(render_scene(scene))[mask_of(thing, 224)]
            assert name_of(np.median(body, axis=0)) == color, (kind, size, scene.background)


def test_a_thing_is_visible_on_every_background() -> None:
    """White on snow and black at night have outlines that contrast with the surroundings."""
    for background in BACKGROUNDS:
        for color in COLORS:
            scene = single("star", color, background)
            with_it, without = (np.asarray(render_scene(s), dtype=float) for s in (scene, replace(scene, things=())))
            wide = mask_of(replace(scene.things[0], size="large"), 224)
            strongest = np.sort(np.abs(with_it - without).max(axis=2)[wide])[-200:]
            assert strongest.mean() > 40, (background, color)


def test_silhouettes_differ() -> None:
    masks = {kind: mask_of(Thing(kind, "red", "large", 0.5, 0.5), 100) for kind in KINDS}
    for kind, mask in masks.items():
        for other in KINDS[: KINDS.index(kind)]:
            shared = (mask & masks[other]).sum() / (mask | masks[other]).sum()
            assert shared < 0.8, (kind, other)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_fill_the_circle_of_radius_one(kind: str) -> None:
    shape = shape_of(kind)
    reach = max(np.linalg.norm(part, axis=1).max() for part in shape.silhouette)
    assert math.isclose(reach, 1)


def test_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="zeppelin"):
        shape_of("zeppelin")


def traits(background: str, seed: int) -> np.ndarray:
    """Return features that separate backgrounds: colors of both halves, and variation along each axis."""
    pixels = np.asarray(render_scene(Scene(background, (), seed)), dtype=float)
    halves = [half.mean(axis=(0, 1)) for half in np.split(pixels, 2)]
    grey = pixels.mean(axis=2)
    busy = [np.abs(grey[step:] - grey[:-step]).mean() for step in (1, 8)]
    busy += [np.abs(grey[:, step:] - grey[:, :-step]).mean() for step in (1, 8)]
    return np.concatenate([*halves, 3 * np.array(busy)])


def test_backgrounds_are_distinguishable() -> None:
    """A nearest-neighbor classifier recognizes the backgrounds."""
    names = [name for name in BACKGROUNDS for _ in range(10)]
    known = np.array([traits(name, seed) for seed, name in enumerate(names)])
    seen = np.array([traits(name, 1000 + seed) for seed, name in enumerate(names)])
    distances = np.abs((seen[:, None] - known[None]) / known.std(axis=0)).sum(axis=2)
    right = [name == names[nearest] for name, nearest in zip(names, distances.argmin(axis=1), strict=True)]
    assert np.mean(right) > 0.97


@pytest.mark.parametrize("grid", [7, 14, 16])
def test_object_map_shows_every_thing_and_nothing_else(grid: int) -> None:
    for scene in scenes(40, max_things=3):
        kinds, colors = segmentation_map(scene, grid)
        assert kinds.shape == colors.shape == (grid, grid)
        assert ((kinds == -1) == (colors == -1)).all()
        seen = {(KINDS[k], COLORS[c]) for k, c in zip(kinds[kinds >= 0], colors[kinds >= 0], strict=True)}
        assert seen == {(thing.kind, thing.color) for thing in scene.things}


def test_presence_map_marks_kind_and_color_of_each_thing() -> None:
    for scene in scenes(50):
        expected = set()
        for thing in scene.things:
            cell = (int(6 * thing.y), int(6 * thing.x))
            expected |= {(*cell, KINDS.index(thing.kind)), (*cell, len(KINDS) + COLORS.index(thing.color))}
        assert set(map(tuple, np.argwhere(presence_map(scene, 6)))) == expected


def test_object_map_is_where_the_thing_is() -> None:
    scene = Scene("sea", (Thing("box", "green", "large", 0.2, 0.8),), 0)
    kinds, _ = segmentation_map(scene, 20)
    rows, columns = np.nonzero(kinds == KINDS.index("box"))
    assert abs(rows.mean() - 15.5) < 0.6
    assert abs(columns.mean() - 3.5) < 0.6


def test_object_map_shows_the_foremost_thing() -> None:
    box, ball = Thing("box", "green", "large", 0.5, 0.5), Thing("ball", "red", "small", 0.6, 0.5)
    for things in ((box, ball), (ball, box)):
        kinds, colors = segmentation_map(Scene("sea", things, 0), 15)
        assert kinds[7, 8] == KINDS.index(things[1].kind)
        assert colors[7, 8] == COLORS.index(things[1].color)


def test_object_map_says_nothing_about_the_background() -> None:
    for scene in scenes(5):
        maps = [segmentation_map(replace(scene, background=name, seed=3), 14) for name in BACKGROUNDS]
        assert all(np.array_equal(maps[0], other) for other in maps)
