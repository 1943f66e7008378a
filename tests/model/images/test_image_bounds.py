"""Files more expensive than their pixels suggest are rejected before decoding; harmless files are accepted."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from model.errors import ImageError
from model.images.decode import (
    DEFAULT_LIMITS,
    MAX_SCANS,
    MAX_SEGMENTS,
    MAX_TIFF_VALUES,
    SERVED_FORMATS,
    ImageLimits,
    find_exceeded_limit,
    iter_tiff_counts,
    strip_metadata,
)
from model.images.preprocess import load_image
from tests.helpers.image_files import (
    encode,
    icon_around,
    jpeg_with_random_tail,
    many_scans,
    many_strips,
    pixel,
    plain_png,
    png_chunk,
    run_length_bmp,
    tiff_of_entries,
    with_chunks,
    with_gif_comment,
    with_segments,
)

IMAGES = Path(__file__).parents[2] / "images"
COSTLY = {
    "scans": many_scans(MAX_SCANS + 1),
    "scans x pixels": many_scans(30, side=1024),
    "strips": many_strips(MAX_TIFF_VALUES + 1),
    "chunks": with_chunks(plain_png(), png_chunk(b"tEXt", b"a\0b") * MAX_SEGMENTS),
    "GIF blocks": with_gif_comment(b"\1a" * 10_000),
    "GIF filling": with_gif_comment(b"")[:13] + bytes(20_000),
    "TIFF entries": tiff_of_entries(5000),
    "JPEG segments": with_segments(b"\xff\xdb\0\2" * 30_000),
    "runs": run_length_bmp(800),
    "an icon's image": icon_around(encode(Image.new("L", (2000, 2000)), "PNG")),
}
LIMITS = ImageLimits(max_pixels=1_200_000)


@pytest.mark.parametrize("data", COSTLY.values(), ids=list(COSTLY))
def test_expensive_images_are_rejected_before_decoding(data, monkeypatch):
    def fail(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ImageError, match=r"scans|blocks|entries|segments|strips|run-length|2000 x 2000"):
        load_image(data, limits=LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        many_scans(20),
        encode(Image.effect_noise((1000, 1000), 50).convert("RGB"), "JPEG", progressive=True),
        jpeg_with_random_tail(4000),
        encode(Image.new("RGB", (10, 3000)), "TIFF", strip_size=30),
        encode(Image.new("L", (600, 600)), "TIFF", big_tiff=True),
        with_gif_comment((b"\xff" + b"a" * 255) * 200),
        with_segments((b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65527)) * 100),
        with_segments(b"\xff\xed\0\x04ab" * 10_000 + b"\xff" * 100_000),
        run_length_bmp(300),
        icon_around(encode(Image.new("RGB", (16, 16)), "PNG")),
    ],
    ids=[
        "scans",
        "progressive",
        "motion-photo",
        "strips",
        "BigTIFF",
        "GIF-comment",
        "JPEG-metadata",
        "JPEG-filling",
        "runs",
        "icon",
    ],
)
def test_harmless_images_are_accepted(data):
    assert find_exceeded_limit(data, LIMITS.max_pixels) is None
    assert load_image(data, limits=LIMITS).mode == "RGB"


def test_strips_are_counted_in_both_byte_orders_and_sizes():
    assert 70_000 in dict(iter_tiff_counts(many_strips(70_000))).values()
    for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II"):
        assert list(iter_tiff_counts(start + b"\xff" * 30)) == []
    big = b"MM\0+\0\x08\0\0" + struct.pack(">QQHHQQ", 16, 1, 324, 4, 99_999, 0)
    assert next(iter_tiff_counts(big)) == (324, 99_999)


LARGE = zlib.compress(bytes(2_000_000))
SOUND = {
    "a profile of 2 MB": png_chunk(b"iCCP", b"a\0\0" + LARGE),
    "a profile with a wrong checksum": png_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x"), checksum=1),
    "a text of 2 MB": png_chunk(b"zTXt", b"a\0\0" + LARGE),
    "an international text of 2 MB": png_chunk(b"iTXt", b"a\0\1\0\0\0" + LARGE),
    "a text with a wrong checksum": png_chunk(b"tEXt", b"a\0b", checksum=1),
    "an international text with a wrong checksum": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>", checksum=1),
    "an orientation of 2 MB": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE),
    "a chunk that nobody knows": png_chunk(b"xxXx", b"abc", checksum=1),
}


@pytest.mark.parametrize("chunk", SOUND.values(), ids=list(SOUND))
def test_a_png_is_decoded_with_any_metadata(chunk):
    assert pixel(load_image(with_chunks(plain_png(), chunk))) == (10, 20, 30)


def test_a_png_keeps_its_transparency_and_its_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert load_image(plain_png(exif=exif)).size == (6, 8)
    profile = exif.tobytes().removeprefix(b"Exif\0\0").hex().encode()
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(profile) // 2, profile)
    assert load_image(with_chunks(plain_png(), png_chunk(b"tEXt", text))).size == (6, 8)
    assert pixel(load_image(plain_png(transparency=(10, 20, 30)))) == (255, 255, 255)


def test_only_the_first_image_of_an_animated_png_is_kept():
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue")]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    stripped = strip_metadata(file.getvalue())
    assert stripped is not None and b"fdAT" not in stripped
    assert pixel(load_image(file.getvalue())) == (255, 0, 0)


def test_damaged_critical_chunks_are_left_to_the_decoder():
    data = plain_png()
    for damaged in (data[:-30], data.replace(b"IDAT", b"IDAT" + b"x")):
        with pytest.raises(ImageError, match=r"truncated|damaged|known format"):
            load_image(damaged)


@pytest.mark.parametrize(
    ("format_name", "options"), [("JPEG2000", {}), ("ICO", {}), ("PPM", {}), ("QOI", {}), ("TGA", {}), ("PCX", {})]
)
def test_unserved_formats_are_named_and_not_opened(format_name, options, monkeypatch):
    data = encode(Image.new("RGB", (32, 32)), format_name, **options)
    assert load_image(data).size == (32, 32)
    limits = ImageLimits(formats=SERVED_FORMATS)
    Image.init()

    def fail(*_):
        raise AssertionError("it was opened")

    monkeypatch.setitem(Image.OPEN, format_name, (fail, Image.OPEN[format_name][1]))
    with pytest.raises(ImageError, match=r"PNG, JPEG|known format"):
        load_image(data, limits=limits)


@pytest.mark.parametrize("format_name", [name for name in SERVED_FORMATS if name != "HEIC"])
def test_served_formats_are_decoded(format_name):
    data = encode(Image.new("RGB", (32, 32), (200, 100, 50)), format_name)
    assert load_image(data, limits=ImageLimits(formats=SERVED_FORMATS)).size == (32, 32)


def test_heic_is_decoded_or_the_missing_package_is_named(monkeypatch):
    data = (IMAGES / "drawn.heic").read_bytes()
    pytest.importorskip("pi_heif", reason="the package that reads HEIC is not installed")
    assert load_image(data, limits=ImageLimits(formats=SERVED_FORMATS)).size == (96, 64)
    with pytest.raises(ImageError, match="96 x 64"):
        load_image(data, limits=ImageLimits(max_pixels=1000))
    monkeypatch.setattr("model.images.decode.HeifImageFile", None)
    for brand in (b"heic", b"hevx", b"msf1"):
        with pytest.raises(ImageError, match="pi-heif"):
            load_image(data[:8] + brand + data[12:])


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
    ],
)
def test_other_files_are_named(data, word):
    with pytest.raises(ImageError, match=word):
        load_image(data, limits=DEFAULT_LIMITS)
