"""Scenes of things: sampling, rendering, and label maps for training.

Lengths and coordinates are fractions of the image side, x to the right and y down.
"""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from visualglm.scenes.backgrounds import BACKGROUNDS, paint_background
from visualglm.scenes.shapes import (
    COLORS,
    KINDS,
    is_visible_on,
    outline_paint,
    render_shape,
    sample_paint,
    shape_of,
    transform_polygon,
)

SIZES = {"small": 0.08, "medium": 0.115, "large": 0.155}  # name -> radius
REGIONS = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
MAX_THINGS = 5
SCALES = (0.95, 1.05)  # variation within a size: much less than between sizes
# (color, kind) pairs that no training image or text contains: they test compositional generalization. Each color occurs
# once.
HELD_OUT = frozenset(
    {
        ("red", "fish"),
        ("orange", "house"),
        ("yellow", "cross"),
        ("green", "box"),
        ("blue", "heart"),
        ("purple", "tree"),
        ("white", "triangle"),
        ("black", "moon"),
    }
)
LINE_MARGIN = 0.04  # minimum distance of a center to a region border
JSON_KEYS = {"color": "colour"}  # field of a Thing -> its key in JSON, if they differ
EDGE_MARGIN = 0.02  # minimum distance of a thing to the image border
MIN_DISTANCE = 0.87  # minimum distance of two centers / sum of the radii: keeps occlusion well under 30 %
SAME_REGION_GAP = 0.08  # minimum difference in x within a region, so that left and right are unambiguous


@dataclass(frozen=True)
class Thing:
    """One thing in a scene.

    Attributes:
        kind: one of KINDS.   color: one of COLORS.   size: a key of SIZES.
        x, y: its center, in fractions of the image side.
        angle: rotation in degrees, clockwise.
        flipped: whether it is mirrored horizontally.
        scale: factor relative to the nominal radius of its size.
    """

    kind: str
    color: str
    size: str
    x: float
    y: float
    angle: float = 0.0
    flipped: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        for value, known in ((self.kind, KINDS), (self.color, COLORS), (self.size, tuple(SIZES))):
            if value not in known:
                raise ValueError(f"{value!r} is unknown; choose one of {', '.join(known)}.")

    @property
    def radius(self) -> float:
        """Return the radius of its bounding circle."""
        return SIZES[self.size] * self.scale


@dataclass(frozen=True)
class Scene:
    """A complete scene.

    Attributes:
        background: one of BACKGROUNDS.
        things: from back to front.
        seed: seed of everything else: texture, shades, light, noise, blur.
    """

    background: str
    things: tuple[Thing, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(f"{self.background!r} is unknown; choose one of {', '.join(BACKGROUNDS)}.")

    def to_json(self) -> str:
        """Return the scene as one line of JSON."""
        fields = asdict(self)
        fields["things"] = [
            {JSON_KEYS.get(name, name): value for name, value in thing.items()} for thing in fields["things"]
        ]
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> "Scene":
        """Parse the output of `to_json`.

        Raises:
            ValueError: the text is not JSON, lacks a field, or names an unknown value.
        """
        fields = json.loads(text)
        try:
            names = {key: name for name, key in JSON_KEYS.items()}
            things = tuple(
                Thing(**{names.get(key, key): value for key, value in thing.items()}) for thing in fields["things"]
            )
            return Scene(fields["background"], things, fields["seed"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"This JSON is not a scene ({error}); write it with Scene.to_json.") from error


def region_of(thing: Thing) -> str:
    """Return the region, one of REGIONS, that contains the thing's center: a cell of a 3 x 3 grid."""
    column, row = (min(int(3 * coordinate), 2) for coordinate in (thing.x, thing.y))
    return REGIONS[3 * row + column]


def sample_scene(rng: np.random.Generator, max_things: int = MAX_THINGS, held_out: bool = False) -> Scene:
    """Sample a scene of 1 to `max_things` things that all differ in kind or color.

    Every thing lies inside the image, is at least 70 % visible, and has an unambiguous region.

    Args:
        rng: source of all randomness.
        max_things: maximum number of things, 1 to 5.
        held_out: whether exactly one thing is a pair of HELD_OUT; otherwise none is.

    Raises:
        ValueError: `max_things` is not from 1 to 5.
    """
    if not 1 <= max_things <= MAX_THINGS:
        raise ValueError(f"max_things={max_things} must be from 1 to {MAX_THINGS}.")
    names = _sample_names(rng, int(rng.integers(1, max_things + 1)))
    if held_out:
        pairs = sorted(HELD_OUT)
        names[int(rng.integers(len(names)))] = pairs[int(rng.integers(len(pairs)))]
    things = None
    while things is None:  # the first things may leave no space for the last ones
        things = _place_things(rng, names)
    return Scene(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], things, int(rng.integers(2**31)))


def _sample_names(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Sample distinct (color, kind) pairs; kinds and colors sometimes repeat, so that there is something to count."""
    names: list[tuple[str, str]] = []
    while len(names) < count:
        color, kind = COLORS[rng.integers(len(COLORS))], KINDS[rng.integers(len(KINDS))]
        if names and (chance := rng.random()) < 0.35:
            last = names[int(rng.integers(len(names)))]
            color, kind = (color, last[1]) if chance < 0.25 else (last[0], kind)
        if (color, kind) not in names and (color, kind) not in HELD_OUT:
            names.append((color, kind))
    return names


def _place_things(rng: np.random.Generator, names: list[tuple[str, str]]) -> tuple[Thing, ...] | None:
    """Place a thing for each (color, kind) pair; return None if one of them finds no free position in 20 attempts."""
    things: list[Thing] = []
    for color, kind in names:
        for _ in range(20):
            thing = _place_thing(rng, color, kind)
            if all(_are_apart(thing, other) for other in things):
                things.append(thing)
                break
        else:
            return None
    return tuple(things)


def _place_thing(rng: np.random.Generator, color: str, kind: str) -> Thing:
    size = tuple(SIZES)[rng.integers(len(SIZES))]
    scale = round(rng.uniform(*SCALES), 3)
    x, y = (_place_in_third(rng, SIZES[size] * scale) for _ in range(2))
    return Thing(kind, color, size, x, y, round(rng.uniform(-12, 12), 1), bool(rng.random() < 0.5), scale)


def _place_in_third(rng: np.random.Generator, radius: float) -> float:
    """Sample a center coordinate; each third of the image is equally likely."""
    third = int(rng.integers(3))
    low = max(third / 3 + LINE_MARGIN, radius + EDGE_MARGIN)
    high = min((third + 1) / 3 - LINE_MARGIN, 1 - radius - EDGE_MARGIN)
    return round(rng.uniform(low, high), 4)


def _are_apart(thing: Thing, other: Thing) -> bool:
    if region_of(thing) == region_of(other) and abs(thing.x - other.x) < SAME_REGION_GAP:
        return False
    return math.hypot(thing.x - other.x, thing.y - other.y) > MIN_DISTANCE * (thing.radius + other.radius)


def render_scene(scene: Scene, size: int = 224) -> Image.Image:
    """Render the scene as an RGB image of `size` by `size` pixels; deterministic."""
    texture, paint, photo = np.random.default_rng(scene.seed).spawn(3)  # independent streams
    image = paint_background(scene.background, size, texture)
    for thing in scene.things:
        _render_thing(image, thing, paint)
    return _add_camera_effects(image, photo)


def render_sketch(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """Render a scene's things as plain shapes on a plain ground, RGB [size, size]; for training."""
    ground = tuple(rng.integers(0, 256, 3).tolist()) if rng.random() < 0.5 else (255, 255, 255)
    image = Image.new("RGB", (size, size), ground)
    plain = bool(rng.random() < 0.7)
    for thing in scene.things:
        _render_thing(image, thing, rng, plain)
    return image


def _render_thing(image: Image.Image, thing: Thing, rng: np.random.Generator, plain: bool = False) -> None:
    size = image.width
    x, y, radius = thing.x * size, thing.y * size, thing.radius * size
    box = (x - radius, y - radius, x + radius, y + radius)
    around = tuple(np.asarray(image.resize((1, 1), box=box))[0, 0].tolist())
    paint = sample_paint(thing.color, rng)
    bare = is_visible_on(paint, around) and rng.random() < (0.7 if plain else 0.25)
    line = None if bare else outline_paint(thing.color, paint, around)
    patch = render_shape(thing.kind, paint, line, radius, thing.angle, thing.flipped, plain)
    corner = (round(x - patch.width / 2), round(y - patch.height / 2))
    image.paste(patch, corner, patch)


def _add_camera_effects(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add lighting, blur and noise, all too weak to change the name of a color."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.6) * image.width / 224))
    gains = rng.uniform(0.88, 1.06) + rng.uniform(-0.02, 0.02, 3)
    light = np.outer(gains, np.arange(256)).clip(0, 255)
    strength = int(rng.integers(1, 9))
    noise = Image.fromarray(rng.integers(0, 2 * strength + 1, (image.height, image.width), dtype=np.uint8))
    lit = image.point(light.astype(int).ravel().tolist())
    return ImageChops.add(lit, Image.merge("RGB", [noise] * 3), offset=-strength)


def segmentation_map(scene: Scene, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind and color at each cell center, of the frontmost thing; backgrounds are not labeled.

    A thing that is too thin to cover any cell center labels the cell of its own center, so that none is missing.

    Args:
        scene: the scene.
        grid: number of rows and columns.

    Returns:
        Indices into KINDS and into COLORS, int64 [grid, grid] each, [row, column]; -1 for background.
    """
    fine = 5  # pixels per cell; odd, so that each cell has a center pixel
    canvas = Image.new("L", (grid * fine, grid * fine))
    draw = ImageDraw.Draw(canvas)
    for number, thing in enumerate(scene.things, start=1):
        pose = (
            thing.x * grid * fine,
            thing.y * grid * fine,
            thing.radius * grid * fine,
            thing.angle,
            thing.flipped,
        )
        for part in shape_of(thing.kind).silhouette:
            draw.polygon(transform_polygon(part, *pose), fill=number)
    numbers = np.asarray(canvas)[fine // 2 :: fine, fine // 2 :: fine].copy()
    for number, thing in enumerate(scene.things, start=1):
        if number not in numbers:
            numbers[int(thing.y * grid), int(thing.x * grid)] = number
    kinds = np.array([-1, *(KINDS.index(thing.kind) for thing in scene.things)])
    colors = np.array([-1, *(COLORS.index(thing.color) for thing in scene.things)])
    return kinds[numbers], colors[numbers]


def presence_map(scene: Scene, grid: int) -> np.ndarray:
    """Return which kinds and colors have a thing whose center is in each cell; backgrounds are not labeled.

    Returns:
        bool [grid, grid, kinds + colors], [row, column], in the order of KINDS and COLORS. It does not tell how many
        things share a cell, nor which color belongs to which kind there.
    """
    presence = np.zeros((grid, grid, len(KINDS) + len(COLORS)), dtype=bool)
    for thing in scene.things:
        cell = presence[int(thing.y * grid), int(thing.x * grid)]
        cell[[KINDS.index(thing.kind), len(KINDS) + COLORS.index(thing.color)]] = True
    return presence
