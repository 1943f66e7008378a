"""Pictures of every kind become the same RGB and the same pixels, and what is no picture is explained."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

import model.image
from model.errors import ImageError
from model.image import (
    CLIP_MEAN,
    CLIP_STD,
    BlipImageEvalProcessor,
    ImageLimits,
    image_digest,
    load_image,
    preprocess,
    to_rgb,
)
from tests.goldens.golden_weights import picture

GOLDENS = Path(__file__).parent / "goldens" / "tiny"
LOSSY = 12  # most mean difference, of 255, that a lossy format may make on a smooth picture


def encode(image: Image.Image, format_name: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def pixel(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def difference(left: Image.Image, right: Image.Image) -> float:
    """Return the mean absolute difference of two pictures of one size, 0..255."""
    assert left.size == right.size
    return float(np.abs(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)).mean())


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that promises width x height pixels and holds next to none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def golden_pictures() -> list[dict[str, int]]:
    return json.loads((GOLDENS / "model.json").read_text(encoding="utf-8"))["pictures"]


@pytest.mark.parametrize("index", [0, 1])
def test_pixels_equal_the_original_s(index):
    golden = np.load(GOLDENS / "pixels.npz")
    pixels = preprocess(picture(**golden_pictures()[index]), 224)
    assert pixels.shape == (3, 224, 224) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    np.testing.assert_allclose(pixels[:, ::8, ::8].numpy(), golden["pixels"][index], rtol=0, atol=1e-6)
    np.testing.assert_allclose(pixels.mean((1, 2)).numpy(), golden["mean"][index], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pixels.std((1, 2), correction=0).numpy(), golden["std"][index], rtol=0, atol=1e-5)


def test_the_processor_equals_preprocess_and_loading_from_bytes_changes_nothing():
    image = picture(**golden_pictures()[0])
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


def test_the_digest_knows_values_shape_and_dtype():
    pixels = torch.arange(12.0).reshape(3, 2, 2)
    same = [pixels, pixels.clone(), pixels.flip(0).flip(0), pixels.requires_grad_(True)]
    other = [pixels + 1, pixels.reshape(3, 4), pixels.to(torch.bfloat16), pixels.transpose(1, 2)]
    assert len({image_digest(tensor) for tensor in same}) == 1
    assert len({image_digest(tensor) for tensor in [pixels, *other]}) == 5


def test_bytes_paths_and_pictures_are_the_same(tmp_path):
    image = picture(3, 20, 30)
    data = encode(image, "PNG")
    path = tmp_path / "猫 one.png"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), str(path), path, image, Image.open(path)):
        loaded = load_image(source)
        assert loaded.mode == "RGB" and difference(loaded, image) == 0
    assert load_image(image) is not image


@pytest.mark.parametrize("pasted", ["  {} \n", "'{}'", '"{}"', "“{}”", " '{}' ", "{escaped}"])
def test_what_a_terminal_adds_to_a_path_does_no_harm(tmp_path, pasted):
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
    with pytest.raises(ImageError, match="not found"):
        load_image("~no-such-user-anywhere/a.png")


def test_urls_are_fetched_within_the_limits(monkeypatch):
    asked = []

    def fetch(url, **options):
        asked.append((url, options))
        return encode(Image.new("RGB", (2, 2), "red"), "PNG")

    monkeypatch.setattr(model.image, "fetch_bytes", fetch)
    limits = ImageLimits(max_bytes=1000, timeout=3.0, public_only=True)
    for url in ("http://a.example/cat.png", " 'HTTPS://a.example/cat.png' "):
        assert pixel(load_image(url, limits=limits)) == (255, 0, 0)
    assert [url for url, _ in asked] == ["http://a.example/cat.png", "HTTPS://a.example/cat.png"]
    assert asked[0][1] == {"max_bytes": 1000, "timeout": 3.0, "public_only": True}


def test_a_web_page_instead_of_a_picture_is_named_without_the_password(monkeypatch):
    monkeypatch.setattr(model.image, "fetch_bytes", lambda url, **_: b"\n<!DOCTYPE html><html>secret")
    with pytest.raises(ImageError, match=r"http://a\.example/cat is a web page.*address of the picture") as error:
        load_image("http://me:pass@a.example/cat?key=1")
    assert not any(word in str(error.value) for word in ("pass", "key", "secret"))


FORMATS = [
    ("PNG", {}, 0),
    ("BMP", {}, 0),
    ("PPM", {}, 0),
    ("TGA", {}, 0),
    ("PCX", {}, 0),
    ("SGI", {}, 0),
    ("DDS", {}, 0),
    ("QOI", {}, 0),
    ("DIB", {}, 0),
    ("TIFF", {}, 0),
    ("TIFF", {"compression": "tiff_lzw"}, 0),
    ("ICO", {"sizes": [(40, 32)]}, 0),
    ("GIF", {}, LOSSY),
    ("JPEG", {}, LOSSY),
    ("JPEG", {"progressive": True, "quality": 95}, LOSSY),
    ("MPO", {}, LOSSY),
    ("WEBP", {"lossless": True}, 0),
    ("WEBP", {}, LOSSY),
    ("AVIF", {}, LOSSY),
    ("JPEG2000", {}, 0),
]
CODECS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


@pytest.mark.parametrize(("format_name", "options", "tolerance"), FORMATS)
def test_formats(format_name, options, tolerance):
    if format_name in CODECS and not features.check(CODECS[format_name]):
        pytest.skip(f"this Pillow has no {format_name}")
    image = picture(5, 32, 40)
    try:
        data = encode(image, format_name, **options)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {format_name}")
    assert difference(load_image(data), image) <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_stay_so_in_every_opaque_mode(mode, value):
    image = Image.new("RGB", (3, 2), (value,) * 3).convert(mode)
    assert pixel(load_image(image)) == (value,) * 3
    assert pixel(to_rgb(image)) == (value,) * 3


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_print_and_video_colours(format_name, mode):
    image = picture(6, 32, 40)
    stored = image.convert(mode)
    assert difference(load_image(encode(stored, format_name)), stored.convert("RGB")) <= LOSSY


def test_lab():
    image = picture(7, 32, 40)
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    stored = ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert stored.mode == "LAB"
    assert difference(load_image(encode(stored, "TIFF")), image) < 3


def half_black_palette() -> Image.Image:
    image = Image.new("PA", (3, 2), (1, 128))
    image.putpalette([255, 0, 0, 0, 0, 0])
    return image


def half_red(mode: str) -> Image.Image:
    return Image.new("RGBA", (3, 2), (255, 0, 0, 128)).convert(mode)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (3, 2), (9, 9, 9, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (9, 8, 7, 255)), (9, 8, 7)),
        (half_red("RGBA"), (255, 127, 127)),
        (half_red("RGBa"), (255, 127, 127)),
        (Image.new("LA", (3, 2), (0, 128)), (127, 127, 127)),
        (Image.new("LA", (3, 2), (0, 128)).convert("La"), (127, 127, 127)),
        (half_black_palette(), (127, 127, 127)),
    ],
    ids=["clear", "opaque", "RGBA", "RGBa", "LA", "La", "PA"],
)
def test_alpha_lies_on_white(image, expected):
    assert pixel(load_image(image)) == expected
    assert pixel(preprocess_inverse(image)) == expected


def preprocess_inverse(image: Image.Image) -> Image.Image:
    """Return the picture that `preprocess` saw, 2 x 2."""
    pixels = preprocess(image, 2) * torch.tensor(CLIP_STD)[:, None, None]
    values = (pixels + torch.tensor(CLIP_MEAN)[:, None, None]) * 255
    return Image.fromarray(values.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


@pytest.mark.parametrize("format_name", ["PNG", "GIF"])
def test_a_transparent_palette_colour_lies_on_white(format_name):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((2, 1), 0)
    loaded = load_image(encode(image, format_name, transparency=1))
    assert pixel(loaded) == (255, 255, 255) and loaded.getpixel((2, 1)) == (255, 0, 0)


def test_a_palette_with_degrees_of_transparency_lies_on_white():
    image = Image.new("P", (3, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    assert pixel(load_image(encode(image, "PNG", transparency=bytes([255, 128])))) == (127, 127, 127)


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 0), ("I;16", 700)])
def test_a_transparent_colour_without_alpha_lies_on_white(mode, colour):
    data = encode(Image.new(mode, (3, 2), colour), "PNG", transparency=colour)
    assert Image.open(io.BytesIO(data)).mode == mode
    assert pixel(load_image(data)) == (255, 255, 255)


RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)  # 0, 257, 514, ... 65535
GREY = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize(
    "values",
    [
        RAMP,
        RAMP.astype(">u2"),
        RAMP.astype(np.int32),
        GREY.astype(np.int32),
        GREY.astype(np.int32) * 10**6 - 9,
    ]
    + [GREY.astype(np.float32) * scale for scale in (1, 1 / 255, 257, 1e6, -1e36)],
    ids=["I;16", "I;16B", "I 16", "I 8", "I 32", "F 8", "F 1", "F 16", "F large", "F negative"],
)
def test_deep_grey_is_scaled_and_not_clipped(values):
    grey = GREY[::-1, ::-1] if values.min() < -1000 else GREY
    image = Image.fromarray(values)
    for source in (image, encode(image, "TIFF")):
        loaded = np.asarray(load_image(source))
        assert (loaded[..., 0] == loaded[..., 2]).all()
        assert np.abs(loaded[..., 0].astype(int) - grey).max() <= (1 if values.min() < 0 else 0)


def test_sixteen_bit_png_is_scaled():
    assert (np.asarray(load_image(encode(Image.fromarray(RAMP), "PNG")))[..., 1] == GREY).all()
    assert pixel(load_image(Image.fromarray(np.full((2, 2), 128, np.uint16)))) == (0, 0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_spoil_a_float_picture(value):
    values = np.array([[0.0, 0.5, 1.0, value]], np.float32)
    loaded = np.asarray(load_image(Image.fromarray(values)))[0, :, 0]
    assert loaded.tolist() == [0, 128, 255, 255 if value > 0 else 0]
    assert pixel(load_image(Image.fromarray(np.full((2, 2), value, np.float32)))) in ((0,) * 3, (255,) * 3)


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation(format_name, orientation):
    stored = picture(8, 24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, format_name, exif=exif)
    expected = Image.fromarray(np.ascontiguousarray(TURNED[orientation](np.asarray(stored))))
    assert difference(load_image(data), expected) <= (LOSSY if format_name == "JPEG" else 0)
    opened = Image.open(io.BytesIO(data))
    loaded = load_image(opened)
    assert loaded.size == expected.size and load_image(loaded).size == expected.size
    if format_name != "TIFF":  # Pillow itself turns a TIFF as it decodes it
        assert opened.size == stored.size


def test_broken_exif_does_not_spoil_a_picture():
    image = picture(9, 8, 8)
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"):
        assert difference(load_image(encode(image, "PNG", exif=exif)), image) == 0


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(format_name):
    if format_name == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encode(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert pixel(load_image(data)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 50000), (50000, 1), (3, 2000)])
def test_extreme_shapes_work(size):
    image = load_image(encode(Image.new("RGB", size, "red"), "PNG"))
    assert image.size == size and torch.isfinite(preprocess(image, 224)).all()


PNG = encode(picture(1, 64, 64), "PNG")
JPEG = encode(picture(1, 64, 64), "JPEG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty\. Save or download it anew"),
        (b"hello, I am a text\n" * 9, r"not a picture in a known format.*Convert it to PNG or JPEG"),
        (b"\0" * 1000, r"not a picture in a known format.*Convert it"),
        (bytes(range(256)) * 9, r"not a picture in a known format.*Convert it"),
        (b"<html><body>404</body></html>", r"web page.*address of the picture itself"),
        (b'<?xml version="1.0"?><svg></svg>', r"SVG drawing.*Convert it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"PostScript.*Convert it"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"HEIC.*Convert it"),
        (PNG[: len(PNG) // 2], r"cut off.*(Copy|download) it anew"),
        (JPEG[: len(JPEG) // 2], r"cut off.*(Copy|download) it anew"),
        (PNG[:20], r"The picture data .*(Convert|anew)"),
        (PNG[:60] + b"\xff" * 60 + PNG[120:], r"The picture data .*(Convert|anew)"),
    ],
)
def test_data_that_is_no_picture(data, message):
    with pytest.raises(ImageError, match=message) as error:
        load_image(data)
    assert str(error.value).startswith("The picture data ") and len(str(error.value)) < 200
    assert "\\x" not in str(error.value) and "hello" not in str(error.value)


@pytest.mark.parametrize("size", [(8001, 8000), (10000, 10000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_from_the_header_without_a_warning(size):
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as caught, pytest.raises(ImageError) as error:
        warnings.simplefilter("always")
        load_image(png_header(*size))
    assert not caught and before == Image.MAX_IMAGE_PIXELS
    assert str(error.value) == (
        f"The picture data has {size[0]} x {size[1]} pixels; at most 64,000,000 are read. Scale it down and try again."
    )


def test_the_limits_can_be_moved():
    image = picture(1, 10, 10)
    with pytest.raises(ImageError, match="10 x 10 pixels; at most 99 are read"):
        load_image(image, limits=ImageLimits(max_pixels=99))
    assert load_image(image, limits=ImageLimits(max_pixels=100)).size == (10, 10)
    with pytest.raises(ImageError, match=r"more than 1,000 bytes\. Scale it down"):
        load_image(b"x" * 1001, limits=ImageLimits(max_bytes=1000))
    assert load_image(PNG, limits=ImageLimits(max_bytes=len(PNG))).size == (64, 64)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_an_icon_that_lies_about_its_size_is_refused():
    inner = encode(picture(1, 300, 300), "PNG")
    entry = bytes([16, 16, 0, 0, 1, 0, 32, 0]) + len(inner).to_bytes(4, "little") + (22).to_bytes(4, "little")
    data = b"\0\0\1\0\1\0" + entry + inner
    assert load_image(data).size == (300, 300)
    with pytest.raises(ImageError, match="300 x 300 pixels; at most 10,000"):
        load_image(data, limits=ImageLimits(max_pixels=10_000))


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(ImageError, match=r"large\.png' has more than 1,000 bytes"):
        load_image(path, limits=ImageLimits(max_bytes=1000))


def test_an_empty_picture_has_no_pixels():
    for size in ((0, 0), (0, 5), (5, 0)):
        with pytest.raises(ImageError, match=rf"has no pixels \({size[0]} x {size[1]}\)"):
            load_image(Image.new("RGB", size))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such.png", r"'no-such\.png' was not found\. Check the spelling"),
        ("a.png/b.png", r"was not found\. Check the spelling"),
        ("", r"the path is empty\. Give the path"),
        (" '' ", r"the path is empty\. Give the path"),
        (".", r"is a directory\. Give the path of one picture file"),
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
def test_sources_that_lead_nowhere(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PNG)
    with pytest.raises(ImageError, match=message) as error:
        load_image(source)
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.png' may not be read: permission denied\. Change"):
        load_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_keep_us_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path / "pipe.png")


def test_a_picture_whose_file_was_closed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    image = Image.open(path)
    image.close()
    with pytest.raises(ImageError, match="The given picture cannot be decoded"):
        load_image(image)


def test_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(0)
    samples = [encode(picture(2, 24, 24), name) for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO")]
    for number in range(400):
        data = bytearray(samples[number % len(samples)])
        for place in rng.integers(0, len(data), 1 + number % 5):
            data[place] = rng.integers(0, 256)
        try:
            assert load_image(bytes(data[: rng.integers(1, len(data) + 1)])).mode == "RGB"
        except ImageError as error:
            assert str(error).startswith("The picture data ")


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


def test_the_modules_work_beside_exported_files_and_import_little(tmp_path):
    package = tmp_path / "exported"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("errors.py", "fetch.py", "image.py"):
        shutil.copy(Path(model.image.__file__).with_name(name), package)
    code = """
        import sys
        import torch
        before = set(sys.modules)
        from exported.image import load_image
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        allowed = sys.stdlib_module_names | {"exported", "PIL", "numpy", "torch"}
        print(sorted(name for name in new - allowed if name != "defusedxml"))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
