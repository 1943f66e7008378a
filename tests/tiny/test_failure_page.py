"""The page of wrong answers holds all of them with their images, and escapes all text."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from tests.tiny.evaluation_data import make_question, make_results
from tiny.evaluation.report import write_failures
from tiny.evaluation.results import Result

NASTY = "<script>alert('x')</script> & {title} %s \"quoted\""


class Reader(HTMLParser):
    """Collects the texts and tags of a page; checks that every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def write_page(path: Path, results: list[Result]) -> str:
    write_failures(path / "failures.html", results)
    return (path / "failures.html").read_text(encoding="utf-8")


def test_every_wrong_answer_is_shown_with_its_conversation(tmp_path: Path) -> None:
    question = make_question(
        text="红的吗？", history=(("有球吗？", "有一个。"),), expected=("right", "red"), language="zh"
    )
    page = write_page(tmp_path, [Result(question, "wrong"), *make_results(3, 1)])
    shown = Reader(page)
    assert not shown.open
    assert shown.tags.count("article") == shown.tags.count("img") == 2
    for text in ("红的吗？", "有球吗？", "有一个。", "right\nred", "wrong", "colour (zh)"):
        assert text in shown.texts
    assert "Wrong answers: 2 of 5" in shown.texts


def test_images_are_inlined(tmp_path: Path) -> None:
    page = write_page(tmp_path, [Result(make_question(image="green"), "wrong")])
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (224, 112)
        assert image.getpixel((0, 0)) == (0, 128, 0)
    assert not re.search(r"https?://|<script|<link|url\(", page)


def test_texts_are_escaped(tmp_path: Path) -> None:
    question = make_question(kind=NASTY, text=NASTY, expected=(NASTY,), history=((NASTY, NASTY),), image=None)
    page = write_page(tmp_path, [Result(question, NASTY)])
    shown = Reader(page)
    assert "script" not in shown.tags
    assert shown.texts.count(NASTY) == 5
    assert "no image" in shown.texts


def test_a_page_without_wrong_answers_says_so(tmp_path: Path) -> None:
    shown = Reader(write_page(tmp_path, make_results(3, 0)))
    assert "Every answer was right." in shown.texts
    assert "article" not in shown.tags
