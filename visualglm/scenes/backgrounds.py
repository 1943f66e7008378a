"""The eight backgrounds: each is a scalar field mapped through a color ramp.

A field is float32 [size, size] in [0, 1]; a ramp is a list of RGB stops, evenly spaced over [0, 1]. Both are
randomized, so that no two images share a background. Nothing in a background resembles one of the kinds of things.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Field = np.ndarray  # float32 [size, size], 0 to 1
Stops = Sequence[tuple[int, int, int]]

BACKGROUNDS = ("sky", "grass", "sea", "desert", "snow", "night", "brick wall", "room")


def paint_background(name: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Render a background as an RGB image [size, size].

    Raises:
        ValueError: the name is not in BACKGROUNDS.
    """
    if name not in BACKGROUNDS:
        raise ValueError(f"There is no background {name!r}; choose one of {', '.join(BACKGROUNDS)}.")
    field, stops = _painter(name)(size, rng)
    colors = np.array(stops, dtype=float) + rng.uniform(-9, 9, (len(stops), 3))
    at = np.linspace(0, 255, len(stops))
    ramp = np.stack([np.interp(np.arange(256), at, channel) for channel in colors.T], axis=1)
    image = Image.fromarray((field * 255).clip(0, 255).astype(np.uint8))
    image.putpalette(ramp.clip(0, 255).astype(np.uint8).tobytes())
    return image.convert("RGB")


def _painter(name: str) -> Callable[[int, np.random.Generator], tuple[Field, Stops]]:
    painters = (_sky, _grass, _sea, _desert, _snow, _night, _brick_wall, _room)
    return painters[BACKGROUNDS.index(name)]


def _smooth(size: int, rng: np.random.Generator, rows: int, columns: int) -> Field:
    """Return random values on a coarse grid, interpolated to the size of the image."""
    coarse = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) / 255


def _down(size: int) -> np.ndarray:
    """Return a ramp from 0 at the top to 1 at the bottom, float32 [size, 1]."""
    return np.linspace(0, 1, size, dtype=np.float32)[:, None]


def _fraction(values: np.ndarray) -> np.ndarray:
    """Return `values % 1`; several times faster."""
    rest: np.ndarray = values - np.floor(values)
    return rest


def _sky(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    puffs = 0.7 * _smooth(size, rng, 4, 3) + 0.3 * _smooth(size, rng, 14, 9)
    clouds = ((puffs - rng.uniform(0.54, 0.64)) * 4).clip(0, 1)
    field = 0.6 * _down(size) * (1 - clouds) + clouds
    return field, [(70, 140, 220), (140, 195, 240), (200, 226, 246), (244, 247, 250)]


def _grass(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    blades = _smooth(size, rng, max(2, size // 10), max(2, size // 2))
    field = 0.6 * blades + 0.4 * _smooth(size, rng, 5, 5)
    return field, [(38, 88, 30), (70, 130, 45), (108, 165, 62), (150, 195, 85)]


def _sea(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    down = _down(size)
    swell = _smooth(size, rng, 6, 4)
    waves = np.sin(rng.uniform(50, 75) * down * (0.6 + 0.4 * down) + 9 * swell)
    field = 0.35 + 0.2 * waves + 0.45 * (_smooth(size, rng, max(2, size // 5), 9) - 0.4)
    return field, [(8, 55, 85), (14, 88, 115), (35, 125, 145), (105, 180, 185), (205, 232, 228)]


def _desert(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    across = np.linspace(0, rng.uniform(1, 3), size, dtype=np.float32)[None, :]
    bend = 2 * _smooth(size, rng, 3, 3)
    dunes = _fraction(rng.uniform(2.5, 4) * _down(size) + 0.3 * across + bend)
    field = 0.85 * dunes + 0.15 * _smooth(size, rng, size // 2 + 1, size // 2 + 1)
    return field, [(176, 128, 72), (205, 160, 98), (222, 184, 124), (236, 206, 150)]


def _snow(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    drifts = _fraction(_down(size) * rng.uniform(1.5, 2.5) + 1.5 * _smooth(size, rng, 3, 3))
    field = 0.5 * drifts + 0.5 * _smooth(size, rng, 9, 6)
    flakes = rng.integers(0, size, (2, size // 2))
    field[flakes[0], flakes[1]] = 1
    return field, [(186, 202, 222), (216, 226, 238), (236, 241, 247), (252, 253, 255)]


def _night(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    field = 0.45 * _down(size) + 0.2 * _smooth(size, rng, 3, 4)
    dots = rng.integers(0, size, (2, size // 3))  # single pixels, far smaller than the kind "star"
    field[dots[0], dots[1]] = rng.uniform(0.8, 1, size // 3)
    return field, [(8, 10, 30), (16, 20, 52), (30, 34, 76), (52, 54, 104), (225, 225, 235)]


def _brick_wall(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    height = size * rng.uniform(0.06, 0.09)
    width = height * rng.uniform(2, 2.5)
    pixels = np.arange(size, dtype=np.float32)
    rows = (pixels[:, None] + rng.uniform(0, height)) / height
    columns = (pixels[None, :] + rng.uniform(0, width)) / width + 0.5 * (rows.astype(int) % 2)
    tones = rng.uniform(0.35, 0.95, (40, 40)).astype(np.float32)
    grain = 0.2 * (_smooth(size, rng, size // 3 + 1, size // 3 + 1) - 0.5)
    field = tones[rows.astype(int), columns.astype(int)] + grain
    mortar = (_fraction(rows) < 0.14) | (_fraction(columns) < 0.14 * height / width)
    field[mortar] = rng.uniform(0, 0.06)
    return field, [(196, 186, 174), (110, 58, 46), (140, 74, 58), (160, 88, 68), (176, 106, 84)]


def _room(size: int, rng: np.random.Generator) -> tuple[Field, Stops]:
    edge = int(size * rng.uniform(0.62, 0.76))
    across = np.arange(size, dtype=np.float32)[None, :]
    stripes = np.sin(across * rng.uniform(30, 70) / size) > 0
    field = 0.04 + 0.1 * stripes + 0.3 * _smooth(size, rng, 2, 3)
    rows = np.arange(size - edge, dtype=np.float32)[:, None]
    lean = (across - size / 2) / (0.6 * size + rows)  # boards converge at a vanishing point behind the wall
    boards = rng.uniform(0.78, 0.95, 64).astype(np.float32)[((lean + 1.5) * 9).astype(int)]
    field[edge:] = boards - 0.08 * (_fraction((lean + 1.5) * 9) < 0.08)
    field[edge - max(2, size // 40) : edge] = 0.5  # the skirting board
    tint = (0, 0, 0) if rng.random() < 0.5 else (-18, -4, 6)
    wall = [(red + tint[0], green + tint[1], blue + tint[2]) for red, green, blue in _WALL]
    return field, [*wall, (250, 248, 242), (96, 62, 36), (126, 84, 50), (166, 116, 72)]


_WALL = ((214, 200, 176), (226, 214, 192), (236, 226, 208))
