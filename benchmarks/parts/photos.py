"""Drawn scenes with noise as JPEGs, which take as long to decode as photos."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from visualglm.scenes import draw_scene

SIZE = 640, 480  # pixels, as of most photos in COCO
NOISE = 12.0  # standard deviation of a pixel's values, of 255
QUALITY = 90  # of the JPEGs


def draw_photo(path: Path, seed: int) -> None:
    """Write a drawn scene with noise as a JPEG."""
    pixels = np.asarray(draw_scene(seed=seed).image.convert("RGB").resize(SIZE), dtype=np.float32)
    noisy = pixels + np.random.default_rng(seed).normal(0, NOISE, pixels.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Write different images to a folder, with all cores; return their paths."""
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw_photo, paths, range(count), chunksize=8))
    return paths
