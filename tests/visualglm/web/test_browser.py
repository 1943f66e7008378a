"""The web page in headless Chromium."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.images.preprocess import load_image
from tests.helpers.cli_program import DESCRIBED_EN, DESCRIBED_ZH, SCENE
from tests.helpers.web_program import DRAWN, PROGRAM, color_of, running_page

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; .ci/run installs it"),
]
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder in which to save screenshots
PATIENCE_MS = 20_000
SCENE_COLOR, DRAWN_COLOR = (color_of(load_image(path)) for path in (SCENE, DRAWN))


class Person:
    """A user with a browser window."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.outside: list[str] = []
        self.failures: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.notice(request.url, url))
        page.on("pageerror", lambda error: self.failures.append(str(error)))

    def notice(self, address: str, own: str) -> None:
        if not address.startswith((own, "data:", "blob:")):
            self.outside.append(address)

    def sees(self, text: str, where: str = "body") -> None:
        """Wait until `text` is visible."""
        playwright.expect(self.page.locator(where)).to_contain_text(text, timeout=PATIENCE_MS)

    def sees_no(self, text: str, where: str = "body") -> None:
        playwright.expect(self.page.locator(where)).not_to_contain_text(text, timeout=PATIENCE_MS)

    def asks(self, question: str) -> None:
        field = self.page.locator("#question textarea")
        playwright.expect(field).to_be_editable(timeout=PATIENCE_MS)
        field.fill(question)
        field.press("Enter")
        playwright.expect(field).to_have_value("", timeout=PATIENCE_MS)

    def asks_and_sees(self, question: str, answer: str) -> None:
        self.asks(question)
        self.sees(answer, "#chat")
        playwright.expect(self.page.locator("#question .submit-button")).to_be_visible(timeout=PATIENCE_MS)

    def gives(self, image: str | Path) -> None:
        if self.page.locator("#picture img").count():
            self.page.get_by_label("Remove Image").or_(self.page.get_by_label("Clear")).first.click()
        self.page.set_input_files("#picture input[type=file]", str(image))
        playwright.expect(self.page.locator("#picture img")).to_be_visible(timeout=PATIENCE_MS)

    def clicks(self, name: str) -> None:
        self.page.get_by_role("button", name=name).last.click()

    def sets(self, setting: str, value: str) -> None:
        if not self.page.get_by_label("temperature").first.is_visible():
            self.clicks("Generation settings")
        field = self.page.get_by_label(f"number input for {setting}")
        field.fill(value)
        field.press("Tab")

    def keeps(self, name: str) -> None:
        """Save a screenshot if SCREENSHOTS is set."""
        if SCREENSHOTS:
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_page(PROGRAM) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def enter(chromium: Any, url: str) -> Iterator[Any]:
    """A function that opens the page in a new browser window."""
    contexts = []

    def open_page(locale: str = "en-GB", query: str = "", **settings: Any) -> Person:
        contexts.append(chromium.new_context(locale=locale, **settings))
        person = Person(contexts[-1].new_page(), url)
        person.page.goto(f"{url}{query}")
        playwright.expect(person.page.locator("#question textarea")).to_be_editable(timeout=PATIENCE_MS)
        return person

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def person(enter: Any) -> Iterator[Person]:
    person = enter()
    person.sees("Upload an image")
    person.sets("temperature", "0")
    yield person
    assert person.outside == []  # the page requests nothing from other hosts
    assert person.failures == []


def test_upload_ask_and_ask_again(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("Describe the image.", DESCRIBED_EN)
    person.asks_and_sees("小汽车是什么颜色？", "小汽车是紫色的。")
    person.keeps("asked")


def test_an_answer_is_streamed_and_can_be_stopped(person: Person) -> None:
    person.asks("slow")
    person.sees("number2 ", "#chat")
    person.page.locator("#question .stop-button").click()
    person.sees("Stopped; this turn is not part", "#chat")
    person.keeps("stopped")
    person.asks_and_sees("closed", " closed")
    person.asks_and_sees("seen", "turns [closed] ")


def test_retry_undo_and_edit(person: Person) -> None:
    person.asks_and_sees("seen", "temperature 0.0 ".strip()[:-2])
    person.sets("temperature", "0.5")
    person.clicks("Retry")
    person.sees("turns [] image None en temperature 0.5", "#chat")
    person.asks_and_sees("Is there a car?", "no")
    person.clicks("Undo")
    person.sees_no("Is there a car?", "#chat")
    playwright.expect(person.page.locator("#question textarea")).to_have_value("Is there a car?")
    person.asks_and_sees("cut", "max_length reached")
    person.page.get_by_role("button", name="Edit").first.click()
    person.page.locator("#chat textarea").fill("break")
    person.page.get_by_role("button", name="Submit").first.click()
    person.sees("Internal error", "#chat")
    person.sees_no("max_length reached", "#chat")
    person.keeps("edited")


def test_the_language_changes_and_the_conversation_stays(person: Person) -> None:
    person.asks_and_sees("cut", "max_length reached")
    person.clicks("中文")
    person.sees("清空对话")
    person.sees("已达到 max_length", "#chat")
    person.clicks("English")
    person.sees("max_length reached", "#chat")
    person.asks_and_sees("seen", "turns [cut]")


@pytest.mark.parametrize(
    ("locale", "query", "said"),
    [
        ("zh-CN", "", "清空对话"),
        ("en-US", "", "Clear conversation"),
        ("en-US", "?lang=zh", "清空对话"),
        ("zh-CN", "?lang=en", "Clear conv"),
    ],
)
def test_the_page_speaks_the_visitor_s_language(locale: str, query: str, said: str, enter: Any) -> None:
    enter(locale, query).sees(said)


def test_an_example_runs(enter: Any) -> None:
    person = enter("zh-CN")
    person.page.locator("#chat button.example").first.click()
    person.sees(DESCRIBED_ZH[:8], "#chat")
    playwright.expect(person.page.locator("#picture img")).to_be_visible()


def test_another_image_starts_a_new_conversation_after_confirmation(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("seen", f"image {SCENE_COLOR}")
    person.gives(DRAWN)
    person.sees("A new image starts a new conversation")
    person.keeps("confirm")
    person.clicks("Keep this one")
    person.asks_and_sees("seen", f"turns [seen] image {SCENE_COLOR}")
    person.gives(DRAWN)
    person.clicks("Start a new one")
    person.sees_no("seen", "#chat")
    person.asks_and_sees("seen", f"turns [] image {DRAWN_COLOR}")


def test_an_invalid_image_is_reported(person: Person, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(Path(SCENE).read_bytes()[:2000])
    person.page.set_input_files("#picture input[type=file]", str(tmp_path / "cut.png"))
    person.sees("The image data is truncated")
    person.page.wait_for_timeout(500)
    person.keeps("bad_image")
    person.asks_and_sees("seen", "turns [] image None")
    person.asks_and_sees("busy", "Too many people ask at the moment.")
    person.asks_and_sees("seen", "turns [seen] image None")


def test_an_image_is_pasted(person: Person) -> None:
    paste = """async (data) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(data)], "image.png", {type: "image/png"}));
        document.querySelector("#question textarea").dispatchEvent(
            new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true}));
    }"""
    for path, color in (SCENE, SCENE_COLOR), (DRAWN, DRAWN_COLOR):
        person.page.evaluate(paste, list(Path(path).read_bytes()))
        person.page.wait_for_timeout(1500)
        person.asks_and_sees("seen", f"image {color}")
        person.clicks("Undo")
        person.sees_no("seen", "#chat")


def test_saved_and_loaded_again(person: Person, enter: Any, tmp_path: Path) -> None:
    person.gives(SCENE)
    person.asks_and_sees("Describe the image.", DESCRIBED_EN)
    person.clicks("Save and load")
    with person.page.expect_download() as download:
        person.clicks("Save conversation")
    download.value.save_as(tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))["image"].startswith("data:image/png;")
    with person.page.expect_download() as download:
        person.clicks("Save text")
    download.value.save_as(tmp_path / "saved.md")
    assert DESCRIBED_EN in (tmp_path / "saved.md").read_text(encoding="utf-8")
    other = enter()
    other.clicks("Save and load")
    other.page.set_input_files("input[data-testid='Load conversation-upload-button']", str(tmp_path / "saved.json"))
    other.sees(DESCRIBED_EN, "#chat")
    other.asks_and_sees("seen", f"turns [Describe the image.] image {SCENE_COLOR}")


def test_two_browsers_stream_at_once(enter: Any) -> None:
    one, two = enter(), enter()
    one.asks("slow")
    one.sees("number1 ", "#chat")
    two.asks("slow")
    two.sees("number20 ", "#chat")
    one.sees("number25 ", "#chat")
    for person in (one, two):
        person.page.locator("#question .stop-button").click()
        person.sees("Stopped", "#chat")


def test_typed_markup_is_shown_as_text(person: Person) -> None:
    tag = "<img src='http://127.0.0.1:9/x.png' onerror='document.title=1'>"
    person.asks(f"{tag} **bold** &lt; [a](http://127.0.0.1:9/) <sop>")
    person.sees("**bold** &\u2060lt; [a](http://127.0.0.1:9/) <\u2060sop>", "#chat")
    person.sees(tag.replace("<", "<\u2060"), "#chat")
    assert person.page.locator("#chat img[src*='127.0.0.1:9']").count() == 0
    person.clicks("Undo")
    playwright.expect(person.page.locator("#question textarea")).to_have_value(re.compile(f"^{re.escape(tag)}.*<sop>$"))
    assert person.page.title() == "VisualGLM"


@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_any_width(width: int, height: int, scheme: str, enter: Any) -> None:
    person = enter(viewport={"width": width, "height": height}, color_scheme=scheme)
    person.keeps(f"empty_{scheme}_{width}")
    person.gives(SCENE)
    person.asks_and_sees("seen", "turns []")
    person.keeps(f"{scheme}_{width}")
    assert person.page.evaluate("document.documentElement.scrollWidth") <= width
    person.page.locator("#question textarea").scroll_into_view_if_needed()
    person.keeps(f"question_{scheme}_{width}")


def test_closing_the_tab_stops_the_answer(person: Person, enter: Any) -> None:
    person.asks_and_sees("closed", " closed")
    before = person.page.locator("#chat").inner_text()
    other = enter()
    other.asks("slow")
    other.sees("number1 ", "#chat")
    other.page.close()
    for _ in range(20):
        person.clicks("Retry")
        person.page.wait_for_timeout(500)
        if person.page.locator("#chat").inner_text() != before:
            return
    raise AssertionError("the model was not stopped")
