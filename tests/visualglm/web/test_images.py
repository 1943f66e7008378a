"""The image cache has limited memory and keeps a resized copy for each model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

pytest.importorskip("gradio", reason="the web page needs Gradio")

from model.images.decode import resize_image
from model.images.preprocess import load_image
from tests.helpers.cli_program import SCENE
from visualglm.web.images import ImageCache

EXAMPLES = [Path(SCENE).parent / f"scene{suffix}.png" for suffix in ("", "_2", "_3")]
SIZE = 56


@pytest.fixture
def cache() -> Iterator[ImageCache]:
    cache = ImageCache(SIZE, max_bytes=2 * 3 * SIZE**2)
    yield cache
    cache.close()


def test_the_least_recently_used_image_is_dropped(cache: ImageCache) -> None:
    first, second = (cache.add(path.read_bytes()).id for path in EXAMPLES[:2])
    assert cache.get(first) is not None
    third = cache.add(EXAMPLES[2].read_bytes()).id
    assert [cache.get(key) is not None for key in (first, second, third)] == [True, False, True]


def test_an_image_that_is_sent_again_counts_once(cache: ImageCache) -> None:
    keys = [cache.add(EXAMPLES[number].read_bytes()).id for number in (0, 1, 1, 1, 0)]
    assert all(cache.get(key) is not None for key in keys)


def test_an_image_is_resized_as_the_models_do() -> None:
    cache = ImageCache(SIZE, 2 * SIZE, SIZE, keep_files=True)
    data = Path(SCENE).read_bytes()
    try:
        image = cache.get(cache.add(data).id)
    finally:
        cache.close()
    assert image is not None
    assert image.file == data
    assert list(image.resized) == [SIZE, 2 * SIZE]
    for size, resized in image.resized.items():
        assert ImageChops.difference(resized, resize_image(load_image(SCENE), size)).getbbox() is None
    assert isinstance(image.resized[SIZE], Image.Image)
