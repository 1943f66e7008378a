"""Paths, URLs, bytes and PIL images give the same pixels; unusable sources raise explained errors."""

import base64
import io
import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import model.images.preprocess
from model.errors import ImageError
from model.hf.export import code_files
from model.images.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    BlipImageEvalProcessor,
    ImageLimits,
    decode_base64,
    load_image,
    preprocess,
)
from tests.goldens.golden_weights import picture
from tests.helpers.image_files import difference, encode, pixel, png_header

GOLDENS = Path(__file__).parents[2] / "goldens" / "tiny"
PNG = encode(picture(1, 64, 64), "PNG")
JPEG = encode(picture(1, 64, 64), "JPEG")


def golden_images() -> list[dict[str, int]]:
    return json.loads((GOLDENS / "model.json").read_text(encoding="utf-8"))["pictures"]


@pytest.mark.parametrize("index", [0, 1])
def test_pixels_equal_the_original_s(index):
    golden = np.load(GOLDENS / "pixels.npz")
    pixels = preprocess(picture(**golden_images()[index]), 224)
    assert pixels.shape == (3, 224, 224) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    np.testing.assert_allclose(pixels[:, ::8, ::8].numpy(), golden["pixels"][index], rtol=0, atol=1e-6)
    np.testing.assert_allclose(pixels.mean((1, 2)).numpy(), golden["mean"][index], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pixels.std((1, 2), correction=0).numpy(), golden["std"][index], rtol=0, atol=1e-5)


def test_the_processor_equals_preprocess_and_loading_from_bytes_changes_nothing():
    image = picture(**golden_images()[0])
    expected = preprocess(image, 56)
    assert torch.equal(BlipImageEvalProcessor(56)(image), expected)
    assert torch.equal(preprocess(load_image(encode(image, "PNG")), 56), expected)
    assert BlipImageEvalProcessor()(image).shape == (3, 384, 384)


def test_the_processor_takes_mean_and_std():
    white = Image.new("L", (4, 4), 255)
    pixels = BlipImageEvalProcessor(2, mean=(0.5, 0.5, 0.0), std=(0.5, 0.25, 1.0))(white)
    assert torch.equal(pixels[:, 0, 0], torch.tensor([1.0, 2.0, 1.0]))
    default = BlipImageEvalProcessor(2)(white)[:, 0, 0]
    torch.testing.assert_close(default, (1 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD))


def test_preprocess_ignores_torch_s_default_device_and_dtype():
    image = Image.new("RGB", (5, 3), "red")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            pixels = preprocess(image, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert pixels.device.type == "cpu" and pixels.dtype == torch.float32


def test_bytes_paths_and_images_are_the_same(tmp_path):
    image = picture(3, 20, 30)
    data = encode(image, "PNG")
    path = tmp_path / "猫 one.png"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), str(path), path, image, Image.open(path)):
        loaded = load_image(source)
        assert loaded.mode == "RGB" and difference(loaded, image) == 0
    assert load_image(image) is not image


@pytest.mark.parametrize("pasted", ["  {} \n", "'{}'", '"{}"', "“{}”", " '{}' ", "{escaped}"])
def test_quotes_and_blanks_added_by_a_terminal_are_removed(tmp_path, pasted):
    path = tmp_path / "my cat.png"
    path.write_bytes(encode(Image.new("RGB", (2, 2), "red"), "PNG"))
    escaped = str(path).replace(" ", "\\ ")
    assert pixel(load_image(pasted.format(path, escaped=escaped))) == (255, 0, 0)


def test_a_literal_path_comes_before_its_cleaned_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("'a.png'").write_bytes(encode(Image.new("RGB", (2, 2), "red"), "PNG"))
    Path("a.png").write_bytes(encode(Image.new("RGB", (2, 2), "blue"), "PNG"))
    assert pixel(load_image("'a.png'")) == (255, 0, 0)
    assert pixel(load_image('"a.png"')) == (0, 0, 255)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (2, 2), "red"), "PNG"))
    assert pixel(load_image("~/a.png")) == pixel(load_image(" '~/a.png'")) == (255, 0, 0)
    with pytest.raises(ImageError, match="found"):
        load_image("~no-such-user-anywhere/a.png")


def test_urls_are_fetched_within_the_limits(monkeypatch):
    asked = []

    def fetch(url, **options):
        asked.append((url, options))
        return encode(Image.new("RGB", (2, 2), "red"), "PNG")

    monkeypatch.setattr(model.images.preprocess, "fetch_bytes", fetch)
    limits = ImageLimits(max_bytes=1000, timeout=3.0, public_only=True, domains=("a.example",), ports=(8080,))
    for url in ("http://a.example/cat.png", " 'HTTPS://a.example/cat.png' "):
        assert pixel(load_image(url, limits=limits)) == (255, 0, 0)
    assert [url for url, _ in asked] == ["http://a.example/cat.png", "HTTPS://a.example/cat.png"]
    given = {"max_bytes": 1000, "timeout": 3.0, "public_only": True, "domains": ("a.example",), "ports": (8080,)}
    assert asked[0][1] == given


def test_a_web_page_instead_of_an_image_is_named_without_the_password(monkeypatch):
    monkeypatch.setattr(model.images.preprocess, "fetch_bytes", lambda url, **_: b"\n<!DOCTYPE html><html>secret")
    with pytest.raises(ImageError, match=r"http://a\.example/cat .*web page") as error:
        load_image("http://me:pass@a.example/cat?key=1")
    assert not any(word in str(error.value) for word in ("pass", "key", "secret"))


@pytest.mark.parametrize("size", [(1, 1), (1, 50000), (50000, 1), (3, 2000)])
def test_extreme_shapes_work(size):
    image = load_image(encode(Image.new("RGB", size, "red"), "PNG"))
    assert image.size == size and torch.isfinite(preprocess(image, 224)).all()


def test_a_file_that_is_too_large_is_not_read_completely(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(10**12)  # a sparse file
    with pytest.raises(ImageError, match=r"large\.png.*1,000 bytes"):
        load_image(path, limits=ImageLimits(max_bytes=1000))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such.png", r"'no-such\.png' was not found\. Check the spelling"),
        ("a.png/b.png", r"was not found\. Check the spelling"),
        ("", r"the path is empty\. Give the path"),
        (" '' ", r"the path is empty\. Give the path"),
        (".", r"is a directory\. Give the path of one image file"),
        ("a\0b.png", r"'a\\x00b\.png' could not be read: this cannot be a path"),
        ("x" * 5000, r"could not be read: .*Check the path"),
        ("\udc80\ud800.png", r"Check the (path|spelling)"),
        ("\x1b[31mred.png", r"'\\x1b\[31mred\.png' was not found"),
        ("ftp://a.example/b.png", r"cannot be read from a ftp: address.*http:// or https://, or the path"),
        ("file:///etc/passwd", r"cannot be read from a file: address.*http:// or https://, or the path"),
        ("FILE://a.png", r"http:// or https://, or the path"),
        ("data:image/png;base64," + "QUFB" * 999, r"cannot be read from a data: address"),
        ("http://", r"not a complete http\(s\) address, like https://example\.com"),
        (None, r"type NoneType\. Give a path, a URL, the bytes"),
        (7, r"type int\. Give a path, a URL, the bytes"),
        (io.BytesIO(b""), r"type BytesIO\. Give a path"),
        (np.zeros((2, 2, 3), np.uint8), r"type ndarray\. Give a path"),
    ],
)
def test_invalid_sources_are_explained(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PNG)
    with pytest.raises(ImageError, match=message) as error:
        load_image(source)
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


def test_a_file_without_read_permission(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.png.*permission"):
        load_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="regular file"):
        load_image(tmp_path / "pipe.png")


def test_an_image_whose_file_was_closed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    image = Image.open(path)
    image.close()
    with pytest.raises(ImageError, match="decoded"):
        load_image(image)


def test_threads_do_not_disturb_each_other():
    sources = [PNG, JPEG, png_header(10000, 10000), b"no picture"] * 8

    def outcome(data: bytes) -> str:
        try:
            return str(load_image(data).size)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, sources))
    assert outcomes == [outcome(data) for data in sources[:4]] * 8


def test_the_modules_work_next_to_exported_files_with_few_imports(tmp_path):
    package = tmp_path / "exported"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in code_files():
        (package / name).write_text(text, encoding="utf-8")
    code = """
        import sys
        import torch
        before = set(sys.modules)
        from exported.preprocess import load_image
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        allowed = sys.stdlib_module_names | {"exported", "PIL", "numpy", "torch", "pi_heif", "_pi_heif"}
        print(sorted(name for name in new - allowed if name != "defusedxml"))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "beginning", ["", " \n", "data:;base64,", "data:image/png;base64,", " data:image/png;name=a.png;BASE64,\n"]
)
def test_base64_text_and_data_urls_are_images(beginning):
    encoded = base64.encodebytes(encode(Image.new("RGB", (3, 2), "red"), "PNG")).decode()
    assert pixel(decode_base64(beginning + encoded)) == (255, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "AAAAA",
        "data:image/png;base64",
        "file:///etc/passwd",
        "图",
        "A" * 5,
        "data:" + "a" * 10**6,
    ],
)
def test_invalid_base64_text_is_rejected(text):
    with pytest.raises(ImageError, match=r"base64|is empty"):
        decode_base64(text)


def test_long_base64_text_is_rejected_before_decoding():
    with pytest.raises(ImageError, match="30 bytes"):
        decode_base64("?" * 41, limits=ImageLimits(max_bytes=30))
