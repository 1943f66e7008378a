"""The eight colours as paint, a little different every time."""

import colorsys

import numpy as np

Rgb = tuple[int, int, int]  # 0 to 255

# hue and its jitter in degrees, saturation, value: so far apart that jitter and light keep them distinct
PAINTS = {
    "red": (0, 5, 0.86, 0.84),
    "orange": (27, 4, 0.93, 0.95),
    "yellow": (54, 3, 0.88, 0.97),
    "green": (128, 12, 0.74, 0.60),
    "blue": (220, 9, 0.80, 0.83),
    "purple": (282, 8, 0.66, 0.66),
    "white": (60, 60, 0.02, 0.97),
    "black": (220, 60, 0.10, 0.10),
}
COLOURS = tuple(PAINTS)


def mix_paint(colour: str, rng: np.random.Generator) -> Rgb:
    """One RGB (0 to 255) that a person would call `colour`, a little different every time."""
    hue, spread, saturation, value = PAINTS[colour]
    jitter = rng.uniform(-1, 1, 3)
    saturation = saturation * (1 + 0.08 * jitter[1])
    value = value + 0.04 * jitter[2]
    red, green, blue = colorsys.hsv_to_rgb((hue + spread * jitter[0]) % 360 / 360, min(saturation, 1), min(value, 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def shade_paint(paint: Rgb, shade: float) -> Rgb:
    """The paint mixed with black (shade below 0) or white (above 0); black itself can only get lighter."""
    if shade < 0 and max(paint) < 60:
        shade = -shade * 0.4
    goal = 255 if shade > 0 else 0
    red, green, blue = (round(channel + abs(shade) * (goal - channel)) for channel in paint)
    return red, green, blue


def outline_paint(colour: str, paint: Rgb, surroundings: float) -> Rgb:
    """A line that stands out from the paint and from surroundings of the given mean brightness, 0 to 255."""
    if colour == "black":
        return shade_paint(paint, 0.75)
    dark = colour == "white" or surroundings > 90
    return shade_paint(paint, -0.7 if dark else 0.65)
