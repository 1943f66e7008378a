"""A page contains its images and texts in one file, unchanged."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model import SettingError
from model.html_page import MAX_SIDE, Article, Line, write_page
from tests.helpers.html_reader import Reader

NASTY = "<script>alert('x')</script> & {title} %s"


def write(path: Path, image: Image.Image | None, image_format: Any) -> str:
    lines = [Line("question", NASTY), Line(NASTY, "yes", "right"), Line("other", "no", "wrong")]
    texts: dict[str, Any] = {"summary": "Exactly:", "scores": [NASTY], "language": "en"}
    write_page(path, NASTY, [Article(image, lines)], **texts, image_format=image_format)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_an_image_is_embedded_and_not_modified(image_format: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (2 * MAX_SIDE, MAX_SIDE), "green")
    page = write(tmp_path / "page.html", image, image_format)
    (data,) = re.findall(rf'src="data:image/{image_format.lower()};base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert (shown.format, shown.size) == (image_format, (MAX_SIDE, MAX_SIDE // 2))
    assert image.size == (2 * MAX_SIDE, MAX_SIDE)
    assert not re.search(r"https?://|<script|<link|url\(", page)


def test_texts_are_escaped_and_have_a_verdict(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html", None, "JPEG")
    read = Reader(page)
    assert not read.open
    assert "script" not in read.tags
    assert read.texts.count(NASTY) == 5
    assert "no image" in read.texts
    assert re.findall(r'class="(right|wrong)">(\w+)', page) == [("right", "yes"), ("wrong", "no")]


def test_a_page_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"page\.html"):
        write_page(tmp_path / "none" / "page.html", "title", [])
