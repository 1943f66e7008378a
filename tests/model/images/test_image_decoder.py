"""Child processes decode image files with the same results, and are killed if they take too long."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.errors import ImageError
from model.images.decode import SERVED_FORMATS, ImageLimits
from model.images.decode_process import SMALL_PIXELS, DecodeTask, ImageDecoder, PixelBudget
from model.images.preprocess import load_image, preprocess
from tests.goldens.golden_weights import picture
from tests.helpers.api_server import SCENE, SCENE_URL, wait_until
from tests.helpers.image_files import encode, many_scans, plain_png, slow_to_decode

LIMITS = ImageLimits(max_pixels=100_000_000, formats=SERVED_FORMATS)


@pytest.fixture
def decoder():
    made = ImageDecoder(LIMITS)
    yield made
    made.close()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 8
    return encode(picture(3, 300, 500), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        SCENE.read_bytes(),
        rotated_jpeg(),
        encode(picture(1, 224, 224), "PNG"),
        encode(Image.new("RGBA", (300, 200), (10, 200, 30, 77)), "PNG"),
        encode(Image.new("I;16", (300, 200), 700), "PNG"),
        encode(picture(2, 90, 70).convert("CMYK"), "TIFF"),
        encode(picture(4, 90, 70).convert("P"), "GIF"),
    ],
    ids=["png", "rotated", "size of the model", "transparent", "16 bits", "CMYK", "palette"],
)
def test_the_model_sees_the_same_pixels(decoder, data):
    expected = preprocess(load_image(data), 224)
    decoded = decoder.decode(data, 224, preview=256)
    assert torch.equal(preprocess(decoded.image, 224), expected)
    assert decoded.preview is not None
    full = load_image(data)
    assert decoded.size == full.size
    full.thumbnail((256, 256))
    assert decoded.preview.tobytes() == full.tobytes()


def test_base64_text_is_decoded_in_the_child(decoder):
    decoded = DecodeTask(decoder, SCENE_URL.encode(), 32, is_text=True).run()
    assert decoded.image.tobytes() == decoder.decode(SCENE.read_bytes(), 32).image.tobytes()
    assert decoded.preview is None


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello", "known format"),
        (SCENE.read_bytes()[:2000], "truncated"),
        (many_scans(200), "scans"),
        (encode(Image.new("1", (20_000, 6000)), "PNG"), "20000 x 6000"),
        (encode(Image.new("L", (9, 9)), "JPEG2000"), "JPEG 2000"),
    ],
)
def test_errors_are_explained(decoder, data, word):
    with pytest.raises(ImageError, match=word):
        decoder.decode(data, 32)
    assert decoder.decode(plain_png(), 32).image.size == (32, 32)


def test_a_child_imports_neither_torch_nor_sat():
    code = f"""
import io, json, sys
from model.images import decode_worker
data = open({str(SCENE)!r}, "rb").read()
request = {{"bytes": len(data), "name": "x", "is_text": False, "size": 32, "preview": 64, "seconds": 60,
            "memory": 2**32, "limits": {{"max_pixels": 10**7, "max_bytes": 10**7, "formats": []}}}}
replies = io.BytesIO()
decode_worker.serve(io.BytesIO(json.dumps(request).encode() + b"\\n" + data), replies)
assert json.loads(replies.getvalue().splitlines()[0]) == {{"size": [448, 448], "sizes": [[32, 32], [64, 64]]}}
print(sorted({{"torch", "sat", "transformers", "numpy"}} & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert run.stdout.strip() == "[]"


def test_a_timeout_kills_only_the_process_of_its_image():
    decoder = ImageDecoder(LIMITS, processes=2, seconds=0.1)
    try:
        decoder.warm_up()
        with pytest.raises(ImageError, match="too long"):
            decoder.decode(slow_to_decode(), 32)
        assert decoder.decode(plain_png(), 32).image.size == (32, 32)
    finally:
        decoder.close()


def test_cancelling_kills_the_process_immediately(decoder):
    decoding = DecodeTask(decoder, slow_to_decode(), 32)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(decoding.run)
        wait_until(lambda: decoder.large.used)
        wait_until(lambda: decoding._worker is not None)
        worker = decoding._worker
        decoding.cancel()
        with pytest.raises(ImageError, match="too long"):
            future.result()
    assert not worker.is_alive
    assert not decoder.large.used and not decoder.large.waiting


def test_a_waiting_task_can_be_cancelled(decoder):
    decoding = DecodeTask(decoder, slow_to_decode(), 32)
    with decoder.large.reserve(LIMITS.max_pixels, lambda: False), ThreadPoolExecutor(1) as pool:
        future = pool.submit(decoding.run)
        wait_until(lambda: decoder.large.waiting)
        decoding.cancel()
        with pytest.raises(ImageError):
            future.result()
    assert not decoder.large.used and not decoder.large.waiting


def test_small_images_do_not_wait_for_large_ones(decoder):
    with decoder.large.reserve(LIMITS.max_pixels, lambda: False):
        assert decoder.decode(plain_png(), 32).image.size == (32, 32)


def test_a_process_that_was_killed_is_replaced(decoder):
    decoder.decode(plain_png(), 32)
    (worker,) = decoder.idle
    worker.process.kill()
    worker.process.wait()
    assert decoder.decode(plain_png(), 32).image.size == (32, 32)


def test_a_bug_in_a_child_is_not_a_damaged_image(decoder):
    decoding = DecodeTask(decoder, plain_png(), 32)
    decoding.request["size"] = "large"
    with pytest.raises(RuntimeError, match="TypeError"):
        decoding.run()


def test_many_threads_get_their_own_images(decoder):
    def side_of(number: int) -> int:
        return decoder.decode(encode(Image.new("RGB", (number, number)), "PNG"), 8, preview=100).preview.width

    sides = [*range(10, 40)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(side_of, sides)) == sides
    assert len(decoder.idle) <= (os.cpu_count() or 1) + 1


def test_closing_leaves_no_process():
    decoder = ImageDecoder(LIMITS)
    decoder.decode(plain_png(), 32)
    (worker,) = decoder.idle
    decoder.close()
    assert not worker.is_alive


def test_a_garbage_collected_decoder_leaves_no_process():
    decoder = ImageDecoder(LIMITS)
    decoder.warm_up()
    (worker,) = decoder.idle
    del decoder
    wait_until(lambda: not worker.is_alive)


def test_a_budget_admits_in_order_and_a_large_image_alone():
    budget = PixelBudget(100, max_images=2)
    order: list[int] = []
    threads = []
    with budget.reserve(60, lambda: False):
        for number, pixels in enumerate((1000, 30)):

            def enter(number: int = number, pixels: int = pixels) -> None:
                with budget.reserve(pixels, lambda: False):
                    order.append(number)

            threads.append(threading.Thread(target=enter))
            threads[-1].start()
            wait_until(lambda count=number + 1: len(budget.waiting) == count)
        assert order == []  # the small image would fit, but waits for the large one before it
    for thread in threads:
        thread.join()
    assert order == [0, 1]
    assert LIMITS.max_pixels > SMALL_PIXELS
