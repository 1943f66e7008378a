"""The states of the page that a visitor can see, one after another in one browser window."""

from collections.abc import Iterator
from typing import Any

from tests.helpers.browser import RUNNING, Person
from tests.helpers.web_program import DRAWN

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TABLET = {"viewport": {"width": 768, "height": 1024}, "has_touch": True}
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
DIALOG = "#visualglm dialog[open]"


def walk(person: Person) -> Iterator[str]:
    """Bring the page into each state, and yield its name."""
    yield "empty"
    person.page.fill("#question", "half a question")
    yield "typed"
    person.page.fill("#question", "")
    person.gives(DRAWN)
    person.locates(".image-sending").to_be_hidden()
    yield "image"
    yield from walk_log(person)
    yield from walk_panels(person)
    yield from walk_dialogs(person)
    yield from walk_comparison(person)
    yield from walk_folder(person)
    yield from walk_messages(person)


def walk_log(person: Person) -> Iterator[str]:
    """The states of the log: a running, a finished and a failed answer, a question being edited."""
    person.asks("slow")
    person.locates(RUNNING).to_have_count(1)
    yield "running"
    person.page.keyboard.press("Escape")
    person.asks_and_sees("seen", "turns")
    yield "finished"
    person.asks("break")
    person.locates("#log .note.error").to_have_count(2)
    yield "failed"
    person.page.locator("#log [data-action=edit]").last.click()
    person.locates("#log .text-form").to_have_count(1)
    yield "edit"
    person.page.keyboard.press("Escape")
    person.locates("#log .text-form").to_have_count(0)


def walk_panels(person: Person) -> Iterator[str]:
    """The list of conversations and the settings, and their menus."""
    page = person.page
    page.click("#menu-button")
    person.locates("#conversations [data-id]").to_have_count(1)
    yield "list"
    page.click("#conversations [data-id] .icon-button")
    yield "menu of the list"
    page.get_by_role("menuitem").first.click()
    yield from close_dialog(person, "rename")
    yield from open_dialog(person, "forget", lambda: page.click(".history-forget"))
    page.locator("#conversations .panel-header button").click()
    page.click("#settings-button")
    yield "settings"
    page.locator("#settings .panel-header button").click()
    page.click("#files-button")
    yield "menu of files"
    page.keyboard.press("Escape")


def walk_dialogs(person: Person) -> Iterator[str]:
    """List the dialogs that Escape closes."""
    page = person.page
    actions = page.locator(".image-actions button")
    yield from open_dialog(person, "model", lambda: page.click("#status button"))
    if page.locator("#help-button").is_visible():
        yield from open_dialog(person, "shortcuts", lambda: page.click("#help-button"))
    yield from open_dialog(person, "viewer", lambda: page.click(".image-enlarge"))
    yield from open_dialog(person, "part", lambda: actions.nth(0).click())
    actions.nth(1).click()
    yield "menu of images"
    yield from open_dialog(person, "examples", lambda: page.get_by_role("menuitem").last.click())
    yield from open_dialog(person, "consent", lambda: actions.nth(2).click())
    actions.nth(1).click()
    yield from open_dialog(person, "drawing board", lambda: page.get_by_role("menuitem").nth(-2).click())
    if not page.evaluate("matchMedia('(pointer: coarse)').matches"):  # a phone's camera is a program of its own
        actions.nth(1).click()
        yield from open_dialog(person, "camera", lambda: page.get_by_role("menuitem").nth(1).click())


def open_dialog(person: Person, name: str, act: Any) -> Iterator[str]:
    """Open a dialog by `act`, yield its name, then close it."""
    act()
    yield from close_dialog(person, name)


def close_dialog(person: Person, name: str) -> Iterator[str]:
    """Yield the name of a dialog that opens, then close it."""
    person.locates(DIALOG).to_have_count(1)
    yield name
    while person.page.locator(DIALOG).count():
        person.page.keyboard.press("Escape")
        person.page.wait_for_timeout(50)
    assert person.page.evaluate("document.activeElement !== document.body"), f"the focus is lost after: {name}"


def walk_comparison(person: Person) -> Iterator[str]:
    """The dialog of comparing, and two answers side by side."""
    page = person.page
    page.click("#compare-button")
    yield "comparison dialog"
    page.click(".compare-dialog button[type=submit]")
    person.asks("seen")
    person.locates("#log .pair").to_have_count(1)
    person.waits()
    yield "comparison"
    page.locator(".comparison-bar button").last.click()


def walk_folder(person: Person) -> Iterator[str]:
    """The folder, empty and with answers."""
    page = person.page
    page.evaluate("window.visualglm.app.then((app) => app.emit('folder', []))")
    yield "empty folder"
    page.set_input_files("#folder-images", [DRAWN, __file__])
    page.fill("#folder-question", "seen")
    page.click("#folder-start")
    person.locates("#folder tr[data-state=done]").to_have_count(1)
    yield "folder"
    page.locator(".folder-header button").click()


def walk_messages(person: Person) -> Iterator[str]:
    """Short messages: one that can undo a deletion, and one about an error."""
    person.page.locator("#log [data-action=delete]").last.click()
    person.page.set_input_files("#conversation-file", __file__)
    person.locates("#toasts .toast").to_have_count(2)
    yield "messages"
