"""What browser tests of the page's image do: give, drop and paste images, hold uploads back, read the page's state."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.browser import wait_until
from tests.helpers.web_program import DRAWN

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
expect = playwright.expect
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

# Dispatches a drag or paste event: [its type, [[name, type, base64]] of the files, text, selector of its target].
SEND_EVENT = """([kind, files, text, selector]) => {
    const transfer = new DataTransfer();
    for (const [name, type, data] of files) {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type }));
    }
    if (text) transfer.setData("text/plain", text);
    const options = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent(kind, { ...options, clipboardData: transfer })
        : new DragEvent(kind, { ...options, dataTransfer: transfer });
    return !document.querySelector(selector).dispatchEvent(event);
}"""


def image_bytes(path: str = DRAWN, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.open(path).convert("RGB").save(buffer, file_format)
    return buffer.getvalue()


def send_event(page: Any, kind: str, names: list[str], text: str = "", selector: str = "body") -> bool:
    """Dispatch an event that brings an image under each of the names; return whether the page took it."""
    data = base64.b64encode(image_bytes()).decode("ascii")
    return bool(page.evaluate(SEND_EVENT, [kind, [[name, "image/png", data] for name in names], text, selector]))


def give(page: Any, path: str = DRAWN) -> None:
    page.set_input_files("#image-file", path)
    expect(panel_image(page, Path(path).name)).to_be_visible()
    expect(page.locator(".image-sending")).to_be_hidden()


def panel_image(page: Any, name: str) -> Any:
    """Return the image of the panel, if its file has this name."""
    return page.locator(f'#image-panel img[alt="{name}"]')


def ask(page: Any, question: str = "How many objects are there?") -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")
    expect(page.locator("#welcome")).to_be_hidden()
    wait_until(page, "app.running.size === 0")


def state(page: Any, expression: str) -> Any:
    """Evaluate an expression with the page's `app`."""
    return page.evaluate(f"async () => {{ const app = await visualglm.app; return {expression}; }}")


class Uploads:
    """Holds the uploads of a page back until they are released, or answers them with an error."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.held: list[Any] = []
        page.route("**/page/images*", lambda route: self.held.append(route))

    def wait(self, count: int = 1) -> None:
        for _ in range(100):
            if len(self.held) >= count:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("no upload has begun")

    def release(self) -> None:
        self.wait()
        self.held.pop(0).continue_()

    def refuse(self, code: str, message: str, status: int) -> None:
        self.wait()
        self.held.pop(0).fulfill(status=status, json={"error": {"code": code, "message": message}})


@pytest.fixture
def open_page(enter: Any) -> Any:
    """A function that opens the page in English; `query` and settings of the browser's context are its arguments."""
    return lambda query="?lang=en", **settings: enter(query=query, **settings).page


@pytest.fixture
def page(open_page: Any) -> Any:
    return open_page()
