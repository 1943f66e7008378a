"""The page in headless Chromium: fixtures for browser tests, and the person who uses the page.

A module of browser tests sets `pytestmark = BROWSER_TESTS`. It may set `PAGE_ARGUMENTS`, arguments of the page's
command line, or override the fixture `page_arguments`. All tests of a module share one server; each person has a new
browser window, with empty storage.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.web_program import PROGRAM, running_page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
BROWSER_TESTS = [
    pytest.mark.slow,
    pytest.mark.flaky(reruns=2),  # on a busy machine a key can be pressed before the browser has moved the focus
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; .ci/run installs it"),
]
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder in which to save screenshots
ARGUMENTS = ["--no-sandbox", "--use-fake-device-for-media-stream"]  # a camera for pages that may use it
PATIENCE_MS = 30_000
READY = "#app #visualglm[data-ready]"  # the parts are built, and Gradio has mounted the page
RUNNING = "#log .answer[data-status=running]"


def wait_until(page: Any, condition: str) -> None:
    """Wait until a JavaScript expression is true, which may use the page's `app` and `await`.

    Playwright's `wait_for_function` does not wait for promises: it takes each for true.
    """
    page.evaluate(f"""async () => {{
        const app = await window.visualglm.app;
        const end = Date.now() + {PATIENCE_MS};
        while (!({condition})) {{
            if (Date.now() > end) throw new Error(`This did not become true: {condition.replace("`", "'")}`);
            await new Promise((resolve) => setTimeout(resolve, 50));
        }}
    }}""")


class Person:
    """A user with a browser window.

    Attributes:
        page: Playwright's page.
        outside: addresses of other hosts that the page requested.
        failures: messages of uncaught errors.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.outside: list[str] = []
        self.failures: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.notice(request.url))
        page.on("pageerror", lambda error: self.failures.append(str(error)))

    def notice(self, address: str) -> None:
        if not address.startswith((self.url, "data:", "blob:")):
            self.outside.append(address)

    def opens(self, query: str = "") -> None:
        """Open the page, and wait until it is loaded and complete."""
        self.page.goto(f"{self.url}{query}", wait_until="load")
        self.page.wait_for_selector(READY)

    def reloads(self) -> None:
        self.page.reload(wait_until="load")
        self.page.wait_for_selector(READY)

    def locates(self, selector: str) -> Any:
        """Return Playwright's assertions about the elements that a selector matches."""
        from playwright.sync_api import expect

        return expect(self.page.locator(selector))

    def sees(self, text: str, where: str = "body") -> None:
        """Wait until `text` is visible."""
        self.locates(where).to_contain_text(text)

    def sees_no(self, text: str, where: str = "body") -> None:
        self.locates(where).not_to_contain_text(text)

    def asks(self, question: str) -> None:
        """Ask a question as soon as no answer is being generated."""
        self.waits()
        field = self.page.locator("#question")
        field.fill(question)
        field.press("Enter")
        self.locates("#question").to_have_value("")

    def waits(self) -> None:
        """Wait until no answer is being generated."""
        self.locates(RUNNING).to_have_count(0)

    def asks_and_sees(self, question: str, answer: str) -> None:
        self.asks(question)
        self.sees(answer, "#log")
        self.waits()

    def gives(self, image: str | Path) -> None:
        """Choose an image file, and wait until the server has it."""
        self.page.locator("#image-file").set_input_files(str(image))
        stored = "(await app.store.get('images', app.conversation.imageId))?.serverId"
        wait_until(self.page, f"app.conversation.imageId && !app.images.uploads.size && {stored}")

    def clicks(self, name: str) -> None:
        """Click the last button with a name, which is the newest in the log."""
        self.page.get_by_role("button", name=name).last.click()

    def acts(self, action: str, index: int = -1) -> None:
        """Click a control of the log by its `data-action`; by default the last one."""
        self.page.locator(f"#log [data-action='{action}']:visible").nth(index).click()

    def sets(self, setting: str, value: float | None) -> None:
        """Change a setting, as the panel of the settings does."""
        self.page.evaluate(
            "([name, value]) => window.visualglm.app.then((app) => app.setSetting(name, value))", [setting, value]
        )

    def conversation(self) -> Any:
        """Return the open conversation's data."""
        return self.page.evaluate("window.visualglm.app.then((app) => structuredClone(app.conversation))")

    def focused(self, attribute: str) -> Any:
        """Return an attribute of the focused element, None without it."""
        return self.page.evaluate("(name) => document.activeElement.getAttribute(name)", attribute)

    def keeps(self, name: str) -> None:
        """Save a screenshot if SCREENSHOTS is set."""
        if SCREENSHOTS:
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


@pytest.fixture(scope="module")  # not longer: while Playwright runs, no other test could call asyncio.run
def chromium() -> Iterator[Any]:
    """The browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_arguments(request: Any) -> list[str]:
    """Arguments of the page's command line."""
    return list(getattr(request.module, "PAGE_ARGUMENTS", []))


@pytest.fixture(scope="module")
def page_url(page_arguments: list[str]) -> Iterator[str]:
    """The URL of the module's page."""
    with running_page([*PROGRAM, *page_arguments]) as address:
        yield address


@pytest.fixture
def enter(chromium: Any, page_url: str) -> Iterator[Any]:
    """A function that opens the page in a new browser window: `enter(query="?lang=zh", **settings of the context)`."""
    contexts = []
    people = []

    def open_page(locale: str = "en-GB", query: str = "", **settings: Any) -> Person:
        contexts.append(chromium.new_context(locale=locale, **settings))
        people.append(Person(contexts[-1].new_page(), page_url))
        people[-1].opens(query)
        return people[-1]

    yield open_page
    for context in contexts:
        context.close()
    for person in people:
        assert person.outside == []  # the page requests nothing from other hosts
        assert person.failures == []


@pytest.fixture
def person(enter: Any) -> Person:
    """A person with the page in English, on a desktop."""
    opened: Person = enter()
    return opened
