"""The eight colours as paint, a little different every time."""

import colorsys

import numpy as np

Rgb = tuple[int, int, int]  # 0 to 255

# lowest and highest hue in degrees, saturation and value: so far apart that light keeps the colours distinct
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
COLOURS = tuple(PAINTS)
LOUD = 90  # difference of two paints in a channel, from which on a thing needs no line around it


def mix_paint(colour: str, rng: np.random.Generator) -> Rgb:
    """One RGB (0 to 255) that a person would call `colour`, a little different every time."""
    hue, saturation, value = (rng.uniform(low, high) for low, high in PAINTS[colour])
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def stands_out(paint: Rgb, surroundings: Rgb) -> bool:
    """Whether paint is seen on those surroundings without a line around it."""
    return max(abs(mine - other) for mine, other in zip(paint, surroundings, strict=True)) >= LOUD


def shade_paint(paint: Rgb, shade: float) -> Rgb:
    """The paint mixed with black (shade below 0) or white (above 0); black itself can only get lighter."""
    if shade < 0 and max(paint) < 60:
        shade = -shade * 0.4
    goal = 255 if shade > 0 else 0
    red, green, blue = (round(channel + abs(shade) * (goal - channel)) for channel in paint)
    return red, green, blue


def outline_paint(colour: str, paint: Rgb, surroundings: Rgb) -> Rgb:
    """A line that stands out from the paint and from its surroundings."""
    if colour == "black":
        return shade_paint(paint, 0.75)
    dark = colour == "white" or sum(surroundings) > 3 * 90
    return shade_paint(paint, -0.7 if dark else 0.65)
