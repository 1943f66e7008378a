"""Image files of every format and mode give the same RGB; other files raise explained errors."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from model.errors import ImageError
from model.images.preprocess import CLIP_MEAN, CLIP_STD, ImageLimits, load_image, preprocess, to_rgb
from tests.goldens.golden_weights import picture
from tests.helpers.image_files import difference, encode, pixel, png_header

LOSSY = 12  # maximum mean difference, of 255, caused by a lossy format on a smooth image


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
def test_black_and_white_are_preserved_in_every_opaque_mode(mode, value):
    image = Image.new("RGB", (3, 2), (value,) * 3).convert(mode)
    assert pixel(load_image(image)) == (value,) * 3
    assert pixel(to_rgb(image)) == (value,) * 3


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_print_and_video_colors(format_name, mode):
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
def test_alpha_is_composited_on_white(image, expected):
    assert pixel(load_image(image)) == expected
    assert pixel(preprocess_inverse(image)) == expected


def preprocess_inverse(image: Image.Image) -> Image.Image:
    """Invert `preprocess`: return its input image, 2 x 2."""
    pixels = preprocess(image, 2) * torch.tensor(CLIP_STD)[:, None, None]
    values = (pixels + torch.tensor(CLIP_MEAN)[:, None, None]) * 255
    return Image.fromarray(values.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


@pytest.mark.parametrize("format_name", ["PNG", "GIF"])
def test_a_transparent_palette_color_is_composited_on_white(format_name):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((2, 1), 0)
    loaded = load_image(encode(image, format_name, transparency=1))
    assert pixel(loaded) == (255, 255, 255) and loaded.getpixel((2, 1)) == (255, 0, 0)


def test_a_palette_with_alpha_is_composited_on_white():
    image = Image.new("P", (3, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    assert pixel(load_image(encode(image, "PNG", transparency=bytes([255, 128])))) == (127, 127, 127)


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 0), ("I;16", 700)])
def test_a_transparent_color_without_alpha_is_composited_on_white(mode, colour):
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
def test_high_bit_depth_gray_is_scaled_and_not_clipped(values):
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
def test_nan_and_infinity_do_not_spoil_a_float_image(value):
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
    if format_name != "TIFF":  # Pillow applies the orientation of a TIFF while decoding
        assert opened.size == stored.size


def test_broken_exif_does_not_spoil_an_image():
    image = picture(9, 8, 8)
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"):
        assert difference(load_image(encode(image, "PNG", exif=exif)), image) == 0


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_decoded(format_name):
    if format_name == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encode(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert pixel(load_image(data)) == (255, 0, 0)


PNG = encode(picture(1, 64, 64), "PNG")
JPEG = encode(picture(1, 64, 64), "JPEG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty\. Save or download it again"),
        (b"hello, I am a text\n" * 9, r"not an image in a known format.*Convert it to PNG or JPEG"),
        (b"\0" * 1000, r"not an image in a known format.*Convert it"),
        (bytes(range(256)) * 9, r"not an image in a known format.*Convert it"),
        (b"<html><body>404</body></html>", r"web page.*address of the image itself"),
        (b'<?xml version="1.0"?><svg></svg>', r"SVG drawing.*Convert it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"PostScript.*Convert it"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"damaged.*Convert it"),
        (PNG[: len(PNG) // 2], r"truncated.*(Copy|download) it again"),
        (JPEG[: len(JPEG) // 2], r"truncated.*(Copy|download) it again"),
        (PNG[:20], r"The image data .*(Convert|again)"),
        (PNG[:60] + b"\xff" * 60 + PNG[120:], r"The image data .*(Convert|again)"),
    ],
)
def test_invalid_data_is_explained(data, message):
    with pytest.raises(ImageError, match=message) as error:
        load_image(data)
    assert str(error.value).startswith("The image data ") and len(str(error.value)) < 200
    assert "\\x" not in str(error.value) and "hello" not in str(error.value)


@pytest.mark.parametrize("size", [(8001, 8000), (10000, 10000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_in_the_header_are_rejected_without_a_warning(size):
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as caught, pytest.raises(ImageError) as error:
        warnings.simplefilter("always")
        load_image(png_header(*size))
    assert not caught and before == Image.MAX_IMAGE_PIXELS
    assert str(error.value) == (
        f"The image data has {size[0]} x {size[1]} pixels; at most 64,000,000 are allowed. Scale it down and try again."
    )


def test_limits_are_configurable():
    image = picture(1, 10, 10)
    with pytest.raises(ImageError, match=r"10 x 10.* 99 "):
        load_image(image, limits=ImageLimits(max_pixels=99))
    assert load_image(image, limits=ImageLimits(max_pixels=100)).size == (10, 10)
    with pytest.raises(ImageError, match="1,000 bytes"):
        load_image(b"x" * 1001, limits=ImageLimits(max_bytes=1000))
    assert load_image(PNG, limits=ImageLimits(max_bytes=len(PNG))).size == (64, 64)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_an_icon_with_a_wrong_size_in_its_header_is_rejected():
    inner = encode(picture(1, 300, 300), "PNG")
    entry = bytes([16, 16, 0, 0, 1, 0, 32, 0]) + len(inner).to_bytes(4, "little") + (22).to_bytes(4, "little")
    data = b"\0\0\1\0\1\0" + entry + inner
    assert load_image(data).size == (300, 300)
    with pytest.raises(ImageError, match="300 x 300"):
        load_image(data, limits=ImageLimits(max_pixels=10_000))


def test_an_empty_image_has_no_pixels():
    for size in ((0, 0), (0, 5), (5, 0)):
        with pytest.raises(ImageError, match=f"{size[0]} x {size[1]}"):
            load_image(Image.new("RGB", size))


def test_damaged_data_always_raises_an_image_error():
    rng = np.random.default_rng(0)
    samples = [encode(picture(2, 24, 24), name) for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO")]
    for number in range(400):
        data = bytearray(samples[number % len(samples)])
        for offset in rng.integers(0, len(data), 1 + number % 5):
            data[offset] = rng.integers(0, 256)
        try:
            assert load_image(bytes(data[: rng.integers(1, len(data) + 1)])).mode == "RGB"
        except ImageError as error:
            assert str(error).startswith("The image data ")
