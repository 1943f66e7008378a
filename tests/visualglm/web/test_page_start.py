"""The start of the page in a browser: the shell before any script, typing while it loads, the login, and leaving."""

import time
from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, PATIENCE_MS, READY, Person
from tests.helpers.cli_program import PATIENCE
from tests.helpers.web_client import PageClient
from tests.helpers.web_program import PROGRAM, running_page

pytestmark = BROWSER_TESTS


@pytest.fixture
def window(chromium: Any) -> Any:
    """A function that opens an empty browser window."""
    contexts = []

    def open_window(**settings: Any) -> Any:
        contexts.append(chromium.new_context(**{"locale": "en-GB", **settings}))
        contexts[-1].set_default_timeout(PATIENCE_MS)
        return contexts[-1].new_page()

    yield open_window
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("locale", "words", "code"), [("en-GB", "image", "en"), ("zh-CN", "图片", "zh-CN")])
def test_the_shell_needs_no_script(locale: str, words: str, code: str, window: Any, page_url: str) -> None:
    page = window(locale=locale, java_script_enabled=False)
    page.goto(page_url)
    assert (page.title(), page.locator("html").get_attribute("lang")) == ("VisualGLM", code)
    assert words in page.locator("#welcome h2").inner_text()
    assert page.locator("#question").is_visible()
    assert page.locator("#question").is_editable()


def test_what_is_typed_before_the_scripts_run_stays(window: Any, page_url: str) -> None:
    page, held = window(), []
    page.route("**/*.js", lambda route: held.append(route))
    page.goto(page_url, wait_until="commit")
    field = page.locator("#question")
    field.press_sequentially("What is")
    page.route("**/*.js", lambda route: route.continue_())
    for route in held:
        route.continue_()
    page.wait_for_selector(READY)
    field.press_sequentially(" this?")
    assert field.input_value() == "What is this?"
    assert page.evaluate("document.activeElement.id") == "question"


def test_gradio_shows_no_footer_and_loads_no_font(person: Person) -> None:
    assert not person.page.locator("footer").is_visible()
    names = person.page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert not [name for name in names if name.endswith((".woff", ".woff2", ".ttf"))]
    assert not [name for name in names if "/gradio_api/" in name]


def test_closing_the_tab_stops_the_answer(person: Person, page_url: str) -> None:
    other = PageClient(page_url)
    before = other.ask("closed")
    person.asks("slow")
    person.sees("number3", "#log")
    person.page.close()
    deadline = time.monotonic() + PATIENCE
    while other.ask("closed") == before:
        assert time.monotonic() < deadline
    other.close()


@pytest.mark.parametrize(("locale", "wrong"), [("en-GB", "wrong"), ("zh-CN", "不正确")])
def test_a_visitor_logs_in_with_the_keyboard(locale: str, wrong: str, window: Any) -> None:
    with running_page([*PROGRAM, "--auth", "me:secret"]) as url:
        page = window(locale=locale, viewport={"width": 390, "height": 844})
        page.goto(url)
        enter_login(page, "guess")
        assert wrong in page.locator("[role=alert]").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        enter_login(page, "secret")
        page.wait_for_selector(READY)
        assert page.evaluate("window.visualglm.app.then((app) => app.info.user)") == "me"


def enter_login(page: Any, password: str) -> None:
    """Type a login; the name has the focus already."""
    for text, key in (("me", "Tab"), (password, "Enter")):
        page.keyboard.type(text)
        page.keyboard.press(key)
