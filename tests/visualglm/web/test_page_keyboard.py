"""The page with the keyboard alone: every function is reached, and after each step the focus is at a visible place."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, Person, wait_until
from tests.helpers.web_program import DRAWN

pytestmark = BROWSER_TESTS
MANY_STEPS = 100  # presses of Tab that pass everything on the page
# Whether the focus is on something in sight that shows it. Headings show none: reading begins there.
IS_IN_SIGHT = """(() => {
    const node = document.activeElement;
    const { top, bottom, width } = node.getBoundingClientRect();
    const { outlineStyle } = getComputedStyle(node.id === "question" ? node.form : node);
    const isSeen = width > 0 && bottom > 0 && top < innerHeight && (outlineStyle !== "none" || node.localName === "h2");
    return node !== document.body && isSeen;
})()"""


@pytest.fixture(scope="module")
def page_arguments(tmp_path_factory: Any) -> list[str]:
    return ["--compare", "visualglm-tiny", "--votes", str(tmp_path_factory.mktemp("votes") / "votes.jsonl")]


class Keyboard:
    """A person who has no pointer."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.page = person.page
        self.page.on("filechooser", lambda _: None)  # from now on, no chooser opens outside the page

    def presses(self, *keys: str) -> None:
        """Press keys; after each one the focus is at a visible place."""
        for key in keys:
            self.page.keyboard.press(key)
            wait_until(self.page, IS_IN_SIGHT)

    def reaches(self, selector: str, key: str = "Tab") -> None:
        """Press a key until the focus is on an element."""
        for _ in range(MANY_STEPS):
            if self.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
            self.page.keyboard.press(key)
        pytest.fail(f"{key} does not reach {selector}")

    def uses(self, selector: str, key: str = "Tab") -> None:
        """Go to a control, and press Enter on it."""
        self.reaches(selector, key)
        self.presses("Enter")

    def chooses(self, selector: str, *paths: str | Path) -> None:
        """Go to a button that opens the system's chooser of files, and choose files."""
        self.reaches(selector)
        with self.page.expect_file_chooser() as chooser:
            self.page.keyboard.press("Enter")
        chooser.value.set_files([str(path) for path in paths])

    def sees(self, selector: str, count: int = 1) -> None:
        self.person.locates(selector).to_have_count(count)
        wait_until(self.page, IS_IN_SIGHT)

    def asks(self, question: str) -> None:
        """Go to the question field with its shortcut or from it, and ask."""
        if self.person.focused("id") != "question":
            self.presses("/")
        self.page.keyboard.type(question)
        self.presses("Enter")


@pytest.fixture
def keys(person: Person) -> Keyboard:
    return Keyboard(person)


def test_the_keyboard_reaches_all_of_a_conversation(keys: Keyboard) -> None:
    keys.uses(".comparison-bar button:last-child", "Shift+Tab")  # stop comparing
    keys.page.keyboard.press("Shift+Tab")
    keys.reaches("#status button", "Shift+Tab")
    keys.chooses(".image-choose", DRAWN)
    keys.sees(".image-enlarge:focus")
    keys.reaches("#question")
    keys.asks("slow")
    keys.presses("Escape")
    keys.person.waits()
    keys.uses("#log [data-action=again]", "Shift+Tab")
    keys.presses("Escape")
    keys.person.waits()
    keys.uses("#log [data-action=edit]", "Shift+Tab")
    keys.presses("Control+a")
    keys.page.keyboard.type("say edited")
    keys.presses("Enter")
    keys.person.sees("edited", "#log .answer .text")
    keys.person.waits()
    keys.uses("#log [data-action=previous]")
    keys.person.sees("2/3", "#log .versions")
    keys.presses("ArrowRight")
    keys.person.sees("3/3", "#log .versions")
    keys.uses("#log [data-action=copy]", "Shift+Tab")
    keys.uses("#log [data-action=correct]")
    keys.page.keyboard.type(", well")
    keys.presses("Enter")
    keys.person.sees("edited, well", "#log .answer > .text")
    keys.uses("#log [data-action=delete]", "Shift+Tab")
    keys.person.sees("/2", "#log .versions")
    keys.presses("Control+z")
    keys.person.sees("/3", "#log .versions")


def test_the_keyboard_reaches_the_list_of_conversations(keys: Keyboard) -> None:
    keys.asks("say first")
    keys.person.waits()
    keys.presses("Control+k")
    keys.uses("#new-conversation", "Shift+Tab")
    keys.asks("say second")
    keys.person.waits()
    keys.presses("Control+k")
    keys.uses("#conversations .history-row .icon-button")
    keys.presses("Enter", "Control+a")  # Rename
    keys.page.keyboard.type("renamed")
    keys.presses("Enter")
    keys.person.sees("renamed", "#conversations .history-title >> nth=0")
    for left in (1, 0):
        keys.presses("Enter", "ArrowDown", "Enter")  # Delete
        keys.sees("#conversations .history-row", left)
    keys.presses("Control+z", "Control+z")
    keys.sees("#conversations .history-row", 2)
    keys.presses("Control+k")
    keys.page.keyboard.type("first")
    keys.sees("#conversations mark")
    keys.uses(".history-open")
    keys.person.sees("first", "#log .answer >> nth=0")
    keys.presses("Control+k")
    keys.uses(".history-forget")
    keys.presses("Enter")
    keys.person.sees("Everything was deleted")
    keys.sees("#toasts [data-undo]", 0)  # what was forgotten cannot come back


def test_the_keyboard_reaches_settings_and_comparison(keys: Keyboard) -> None:
    keys.presses("Shift+Tab", "?")
    keys.sees("dialog .shortcuts")
    keys.presses("Escape")
    keys.uses("#settings-button", "Shift+Tab")
    keys.reaches("#settings [name=theme]")
    keys.presses("ArrowDown", "Escape")
    assert keys.page.evaluate("document.documentElement.dataset.theme") == "light"
    keys.uses("#language")
    keys.uses("#language")
    keys.asks("which")
    keys.person.waits()
    keys.uses("#log [data-action=choose-A]", "Shift+Tab")
    keys.sees("#log .preferred:visible")
    keys.uses("#compare-button", "Shift+Tab")
    keys.uses("dialog button:not(.primary):not(.icon-button)")  # stop comparing
    keys.uses("#files-button", "Shift+Tab")
    keys.presses("ArrowDown", "ArrowDown")
    with keys.page.expect_download() as download:
        keys.presses("Enter")
    assert download.value.suggested_filename.endswith(".html")
    with keys.page.expect_download():
        keys.presses("Control+s")


def test_the_keyboard_reaches_images_and_the_folder(keys: Keyboard) -> None:
    keys.uses(".image-sources button:last-child", "Shift+Tab")  # the drawing board
    keys.reaches(".drawing-canvas")
    keys.presses("ArrowLeft", "Space")
    keys.uses("dialog .primary")
    keys.sees(".image-enlarge:focus")
    keys.presses("Enter", "+", "ArrowLeft", "0", "Escape")
    keys.uses(".image-actions button")
    keys.presses("Shift+ArrowLeft", "ArrowUp", "Enter")
    keys.person.sees("part", ".image-name")
    keys.asks("say something")
    keys.person.waits()
    keys.uses(".image-actions button:last-child", "Shift+Tab")  # a new conversation
    keys.presses("Enter")
    keys.sees("#log .round", 0)
    keys.presses("Control+z")
    keys.sees("#log .round", 1)
    keys.uses("#folder-button", "Shift+Tab")
    keys.chooses("#folder .folder-sources button", DRAWN)
    keys.reaches("#folder-question")
    keys.page.keyboard.type("seen")
    keys.presses("Enter")
    keys.sees("#folder tr[data-state=done]")
    keys.uses("#folder-clear")
    keys.presses("Enter")
    keys.sees("#folder tbody tr", 0)
    keys.uses(".folder-header button", "Shift+Tab")
    keys.sees("#folder-button:focus")
