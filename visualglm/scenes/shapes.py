"""The silhouettes of the twelve kinds, and random paints for the eight colors.

A kind consists of polygons in its own coordinates: x to the right, y down, inside the unit circle around the origin.
Rendering and label maps use the same polygons.
"""

import colorsys
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]  # 0 to 255
Points = np.ndarray  # float [n, 2]

KINDS = (
    "ball",
    "box",
    "triangle",
    "star",
    "heart",
    "ring",
    "cross",
    "moon",
    "house",
    "car",
    "tree",
    "fish",
)
# ranges of hue in degrees, saturation and value: far enough apart that lighting keeps the colors distinct
PAINTS = {
    "red": ((-7, 9), (0.78, 1.0), (0.72, 1.0)),
    "orange": ((22, 38), (0.85, 1.0), (0.9, 1.0)),
    "yellow": ((50, 61), (0.75, 1.0), (0.92, 1.0)),
    "green": ((100, 148), (0.58, 1.0), (0.44, 0.9)),
    "blue": ((207, 242), (0.66, 1.0), (0.62, 1.0)),
    "purple": ((270, 301), (0.52, 1.0), (0.48, 0.82)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
    "black": ((0, 360), (0.0, 0.25), (0.0, 0.13)),
}
COLORS = tuple(PAINTS)
MIN_CONTRAST = 90  # channel difference from which a thing needs no outline


@dataclass(frozen=True)
class Shape:
    """The polygons of one kind.

    Attributes:
        silhouette: polygons [n, 2] whose union is the thing.
        details: polygons drawn on top, each with a shade from -1 (darker) to 1 (lighter).
    """

    silhouette: tuple[Points, ...]
    details: tuple[tuple[Points, float], ...] = ()


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, steps: int = 28) -> Points:
    """Return points [steps + 1, 2] on an ellipse around (x, y) from `start` to `stop` degrees."""
    angle = np.radians(np.linspace(start, stop, steps + 1))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def disc(x: float, y: float, radius: float) -> Points:
    """Return a full circle as points [29, 2]."""
    return arc(x, y, radius, radius)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the four corners [4, 2]."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


def _star() -> Points:
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.43)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _heart() -> Points:
    angle = np.linspace(0, 2 * math.pi, 40)
    x = 16 * np.sin(angle) ** 3
    y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle))
    return np.stack([x, y], axis=1)


def _ring() -> Shape:
    # two slightly overlapping halves, which leave no seam
    starts = (-95, 85)
    return Shape(
        tuple(np.concatenate([arc(0, 0, 1, 1, a, a + 190), arc(0, 0, 0.52, 0.52, a + 190, a)]) for a in starts)
    )


def _cross() -> Points:
    a, b = 1.0, 0.31
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
    ]
    return np.array([*corners, (-b, -b)], dtype=float)


def _moon() -> Points:
    # two circles, radius 1 at the origin and 0.8 at (0.45, 0), intersect at 51.3 and 77.4 degrees on them
    return np.concatenate([arc(0, 0, 1, 1, 51.3, 308.7), arc(0.45, 0, 0.8, 0.8, 282.6, 77.4)])


def _house() -> Shape:
    roof = np.array([(-1.0, -0.15), (0, -1.0), (1.0, -0.15)])
    panes = tuple((rectangle(x - 0.14, 0.08, x + 0.14, 0.36), 0.7) for x in (-0.45, 0.45))
    door = (rectangle(-0.17, 0.3, 0.17, 0.85), -0.6)
    return Shape((rectangle(-0.75, -0.2, 0.75, 0.85), roof), ((roof, -0.25), *panes, door))


def _car() -> Shape:
    body = np.array(
        [(-1, 0.0), (-0.62, -0.06), (-0.38, -0.5), (0.3, -0.5), (0.6, -0.06), (1, 0.05), (1, 0.4), (-1, 0.4)]
    )
    wheels = tuple(disc(x, 0.4, 0.25) for x in (-0.55, 0.55))
    hubs = tuple((disc(x, 0.4, 0.1), 0.5) for x in (-0.55, 0.55))
    panes = (
        (np.array([(-0.45, -0.08), (-0.3, -0.4), (-0.08, -0.4), (-0.08, -0.08)]), 0.7),
        (np.array([(0.03, -0.08), (0.03, -0.4), (0.25, -0.4), (0.43, -0.08)]), 0.7),
    )
    return Shape((body, *wheels), (*((wheel, -0.7) for wheel in wheels), *hubs, *panes))


def _tree() -> Shape:
    trunk = rectangle(-0.15, 0.2, 0.15, 1.0)
    crown = (disc(0, -0.5, 0.48), disc(-0.42, -0.02, 0.4), disc(0.42, -0.02, 0.4), disc(0, 0, 0.35))
    return Shape((trunk, *crown), ((rectangle(-0.15, 0.36, 0.15, 1.0), -0.55),))


def _fish() -> Shape:
    tail = np.array([(-0.4, 0.0), (-1.0, -0.5), (-0.85, 0.0), (-1.0, 0.5)])
    fin = np.array([(-0.05, 0.0), (0.2, 0.1), (-0.1, 0.25)])
    return Shape((arc(0.2, 0, 0.8, 0.5), tail), ((disc(0.62, -0.14, 0.09), -0.8), (fin, -0.35), (tail, -0.25)))


def _plain(points: Points) -> Shape:
    return Shape((points,))


def _raw_shape(kind: str) -> Shape:
    match kind:
        case "ball":
            return Shape((disc(0, 0, 1),), ((disc(-0.36, -0.4, 0.18), 0.45),))
        case "box":
            return Shape((rectangle(-1, -1, 1, 1),), ((rectangle(-1, -1, 1, -0.6), 0.3),))
        case "triangle":
            return _plain(np.array([(0, -1), (1, 0.75), (-1, 0.75)], dtype=float))
        case "star":
            return _plain(_star())
        case "heart":
            return _plain(_heart())
        case "ring":
            return _ring()
        case "cross":
            return _plain(_cross())
        case "moon":
            return _plain(_moon())
        case "house":
            return _house()
        case "car":
            return _car()
        case "tree":
            return _tree()
        case "fish":
            return _fish()
    raise ValueError(f"There is no kind {kind!r}; choose one of {', '.join(KINDS)}.")


@cache
def shape_of(kind: str) -> Shape:
    """Return the polygons of `kind`, centered and scaled so that the farthest point has distance 1.

    Raises:
        ValueError: the kind is not in KINDS.
    """
    raw = _raw_shape(kind)
    points = np.concatenate(raw.silhouette)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = np.linalg.norm(points - centre, axis=1).max()
    return Shape(
        tuple((part - centre) / reach for part in raw.silhouette),
        tuple(((part - centre) / reach, shade) for part, shade in raw.details),
    )


def transform_polygon(points: Points, x: float, y: float, radius: float, angle: float, flipped: bool) -> list[float]:
    """Return a polygon [n, 2] mirrored, rotated by `angle` degrees, scaled and moved, as x, y, x, y, ..."""
    cos, sin = math.cos(math.radians(angle)) * radius, math.sin(math.radians(angle)) * radius
    across = -1 if flipped else 1
    rotated = points @ np.array([[cos * across, sin * across], [-sin, cos]])
    flat: list[float] = (rotated + np.array([x, y])).ravel().tolist()
    return flat


def render_shape(
    kind: str, paint: Rgb, line: Rgb | None, radius: float, angle: float, flipped: bool, plain: bool = False
) -> Image.Image:
    """Render a thing as an antialiased RGBA patch, centered.

    Args:
        kind: one of KINDS.
        paint, line: colors of the thing and of its outline; None for no outline.
        radius: in pixels.
        angle, flipped: see `visualglm.scenes.Thing`.
        plain: omit the details, such as windows.
    """
    half = math.ceil(radius) + 2  # margin for the outline
    # Rendered at twice the size, for antialiasing.
    patch = Image.new("RGBA", (4 * half, 4 * half), (*(line or paint), 0))
    draw = ImageDraw.Draw(patch)
    shape = shape_of(kind)
    outlines = [transform_polygon(part, 2 * half, 2 * half, 2 * radius, angle, flipped) for part in shape.silhouette]
    for points in outlines if line else []:  # outlines first, so that the paint covers the parts inside the thing
        draw.line([*points, *points[:4]], fill=line, width=max(5, round(radius / 6)), joint="curve")
    for points in outlines:
        draw.polygon(points, fill=paint)
    for part, shade in () if plain else shape.details:
        points = transform_polygon(part, 2 * half, 2 * half, 2 * radius, angle, flipped)
        draw.polygon(points, fill=shade_paint(paint, shade))
    return patch.reduce(2)


def sample_paint(color: str, rng: np.random.Generator) -> Rgb:
    """Sample an RGB value (0 to 255) that people would call `color`."""
    hue, saturation, value = (rng.uniform(low, high) for low, high in PAINTS[color])
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def is_visible_on(paint: Rgb, surroundings: Rgb) -> bool:
    """Check whether the paint is visible on these surroundings without an outline."""
    return max(abs(mine - other) for mine, other in zip(paint, surroundings, strict=True)) >= MIN_CONTRAST


def shade_paint(paint: Rgb, shade: float) -> Rgb:
    """Return the paint mixed with black (shade < 0) or white (shade > 0); black itself can only get lighter."""
    if shade < 0 and max(paint) < 60:
        shade = -shade * 0.4
    goal = 255 if shade > 0 else 0
    red, green, blue = (round(channel + abs(shade) * (goal - channel)) for channel in paint)
    return red, green, blue


def outline_paint(color: str, paint: Rgb, surroundings: Rgb) -> Rgb:
    """Return an outline color that contrasts with the paint and its surroundings."""
    if color == "black":
        return shade_paint(paint, 0.75)
    dark = color == "white" or sum(surroundings) > 3 * 90
    return shade_paint(paint, -0.7 if dark else 0.65)
