"""Everybody can use the page: axe in every state, targets, languages, small and large screens, the keyboard alone."""

from importlib.resources import files
from typing import Any

import pytest

from model import CHINESE, ENGLISH, Language
from tests.helpers.browser import BROWSER_TESTS, Person
from tests.helpers.page_states import DESKTOP, PHONE, TABLET, walk
from tests.helpers.web_program import DRAWN

pytestmark = BROWSER_TESTS
# Runs all rules, or only those that are given. The page has no frames, and no rule here reads style sheets.
RUN_AXE = """async (rules) => {
    const quick = { resultTypes: ["violations"], iframes: false, preload: false };
    const { violations } = await axe.run(document, rules ? { ...quick, runOnly: rules } : quick);
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(" | ")}`);
}"""
# Returns the controls that are smaller than a number of pixels. What a label holds is as large as its label.
SMALL_CONTROLS = """(least) => {
    const root = document.querySelector("#visualglm dialog[open]") ?? document.getElementById("visualglm") ?? document;
    const isVisible = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const isShown = (node) => isVisible(node.closest("label") ?? node);
    const controls = [...root.querySelectorAll("button, a[href], input, select, textarea, summary")];
    return controls.filter((node) => isShown(node) && !node.closest("[inert], .skip-link")).map((node) => {
        const { width, height } = (node.closest("label") ?? node).getBoundingClientRect();
        const size = `${Math.round(width)} x ${Math.round(height)}`;
        return [Math.min(width, height), `${size}: ${node.outerHTML.slice(0, 120)}`];
    }).filter(([size]) => size > 1 && size < least - 0.5).map(([, text]) => text);
}"""
# Returns the areas whose content is wider than they are.
WIDE_AREAS = """() => ["body", "#visualglm", "#top", "#main", "#talk", "#log", "#folder", "#settings", "#conversations",
    "#visualglm dialog[open]"].filter((selector) => {
        const node = document.querySelector(selector);
        return node && node.scrollWidth > node.clientWidth + 1 && node.clientWidth > 0;
    })"""


def read_axe() -> str:
    pytest.importorskip("axe_playwright_python", reason="the tests of accessibility need axe")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def find_faults(page: Any, least: int) -> list[str]:
    """Return what axe finds in light and dark, controls smaller than `least` pixels, and areas that scroll sideways."""
    faults = find_wrong_sizes(page, least)
    for scheme, rules in (("light", None), ("dark", ["color-contrast"])):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        faults += [f"{scheme}: {fault}" for fault in page.evaluate(RUN_AXE, rules)]
    return faults


def find_wrong_sizes(page: Any, least: int) -> list[str]:
    """Return controls smaller than `least` pixels, and areas that scroll sideways."""
    return [*page.evaluate(SMALL_CONTROLS, least), *page.evaluate(WIDE_AREAS)]


SWITCH_LANGUAGE = "document.getElementById('language').click()"  # also behind a dialog
DEVICES = [(PHONE, "zh", 44), (TABLET, "en", 44), (DESKTOP, "zh", 24)]


@pytest.mark.parametrize(("device", "language", "least"), DEVICES, ids=["390", "768", "1440"])
def test_each_state_is_accessible(enter: Any, device: dict[str, Any], language: str, least: int) -> None:
    person = enter(query=f"?lang={language}", **device)
    person.page.evaluate(read_axe())
    faults = {}
    for state in walk(person):
        person.keeps(f"{device['viewport']['width']}-{state}")
        found = find_faults(person.page, least)
        person.page.evaluate(SWITCH_LANGUAGE)
        found += [f"other language: {fault}" for fault in find_wrong_sizes(person.page, least)]
        person.page.evaluate(SWITCH_LANGUAGE)
        if found:
            faults[state] = found
    assert faults == {}


@pytest.mark.parametrize("language", [CHINESE, ENGLISH], ids=["zh", "en"])
def test_the_login_page_is_accessible(chromium: Any, language: Language) -> None:
    from visualglm.web.client_files import read_client_files
    from visualglm.web.login import build_login_page

    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.set_content(build_login_page(read_client_files(), language, "!", "me"))
    page.evaluate(read_axe())
    assert find_faults(page, 44) == []
    page.close()


SEES_FIELD = """() => ["question", "send"].every((id) => {
    const { left, top, right, bottom } = document.getElementById(id).getBoundingClientRect();
    return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight
        && document.elementFromPoint((left + right) / 2, (top + bottom) / 2)?.closest(`#${id}`);
})"""
SCREENS = [(320, 256), (844, 390), (390, 400), (2560, 1440)]  # 400 % zoom, phones on their side and with a keyboard


@pytest.mark.parametrize("size", SCREENS, ids=lambda size: "x".join(map(str, size)))
def test_the_field_is_in_sight_on_each_screen(enter: Any, size: tuple[int, int]) -> None:
    person = enter(viewport={"width": size[0], "height": size[1]})
    assert person.page.evaluate(SEES_FIELD)
    person.gives(DRAWN)
    person.asks_and_sees("seen", "turns")
    person.page.fill("#question", "a line\n" * 30)
    person.keeps(f"{size[0]}x{size[1]}")
    assert person.page.evaluate(SEES_FIELD)
    assert person.page.evaluate(WIDE_AREAS) == []


def test_a_phone_keyboard_leaves_the_field_in_sight(enter: Any) -> None:
    page = enter(**PHONE).page
    assert "interactive-widget=resizes-content" in page.locator("meta[name=viewport]").get_attribute("content")
    # A browser that does not know this lays the keyboard over the page, and scrolls what is left to the field.
    page.evaluate("""() => {
        for (const [name, value] of Object.entries({ height: 420, offsetTop: 300 }))
            Object.defineProperty(visualViewport, name, { value, configurable: true });
        visualViewport.dispatchEvent(new Event("scroll"));
    }""")
    for name in ("question", "send"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["y"] >= 300 and box["y"] + box["height"] <= 720


def test_messages_leave_the_field_in_sight(enter: Any) -> None:
    person = enter(**PHONE)
    person.page.fill("#question", "a line\n" * 30)
    person.page.set_input_files("#conversation-file", __file__)
    person.locates("#toasts .toast").to_have_count(1)
    assert person.page.evaluate(SEES_FIELD)


def test_the_language_of_the_document_follows_the_switch(person: Person) -> None:
    language = "document.documentElement.lang"
    assert person.page.evaluate(language) == "en"
    person.page.click("#language")
    assert person.page.evaluate(language) == "zh-CN"
    assert person.page.locator("#language").get_attribute("lang") == "en"


# Returns place, padding, border and font of everything that the visitor sees.
LOOK = """() => [...document.querySelectorAll("#visualglm :is(h1, h2, h3, p, button, textarea, li, svg, img)")]
    .filter((node) => node.checkVisibility()).map((node) => {
        const { x, y, width, height } = node.getBoundingClientRect();
        const { padding, border, borderTopWidth, font, color, backgroundColor } = getComputedStyle(node);
        const edge = borderTopWidth === "0px" ? "" : border; // without a width, its style and color are not seen
        const name = `${node.localName}#${node.id}.${node.getAttribute("class")}`;
        const place = [x, y, width, height].map(Math.round);
        return [name, ...place, padding, edge, font, color, backgroundColor].join(" ");
    })"""


def test_gradio_changes_nothing_that_is_seen(person: Person) -> None:
    mounted = person.page.evaluate(LOOK)
    person.page.route("**/assets/**", lambda route: route.abort())
    person.page.route("**/theme.css*", lambda route: route.abort())
    person.page.reload()
    person.page.wait_for_selector("#visualglm[data-ready]")
    assert person.page.evaluate("document.querySelector('#app')") is None
    assert person.page.evaluate(LOOK) == mounted


def test_the_title_names_the_conversation_and_marks_answers_in_the_background(person: Person) -> None:
    page = person.page
    assert page.title() == "VisualGLM"
    person.asks("slow")
    assert page.title() == "slow - VisualGLM"
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.title() == "… slow - VisualGLM"
    page.evaluate("window.visualglm.app.then((app) => app.stop())")
    page.wait_for_function("document.title === '● slow - VisualGLM'")
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    assert page.title() == "slow - VisualGLM"


# Returns the names of the controls that Tab has to reach.
CONTROLS = """() => [...document.querySelectorAll("#visualglm :is(button, input, textarea, select, [tabindex])")]
    .filter((node) => node.checkVisibility() && node.tabIndex >= 0 && !node.disabled)
    .filter((node) => node.type !== "radio" || node.checked) // the arrow keys reach the others
    .map((node, index) => (node.dataset.control = String(index)))"""
FOCUSED = """() => {
    const node = document.activeElement;
    const { outlineStyle, boxShadow } = getComputedStyle(node.id === "question" ? node.form : node);
    return [node.dataset.control ?? "", outlineStyle !== "none" || boxShadow !== "none"];
}"""


@pytest.mark.parametrize("state", ["empty", "finished", "list", "settings", "empty folder"])
def test_tab_reaches_every_control_and_shows_where_it_is(enter: Any, state: str) -> None:
    person = enter()
    next(name for name in walk(person) if name == state)
    controls, page = person.page.evaluate(CONTROLS), person.page
    reached = {}
    for _ in range(len(controls) + 5):
        page.keyboard.press("Tab")
        name, is_visible = page.evaluate(FOCUSED)
        reached[name] = is_visible
    hidden = [name for name in controls if name not in reached]
    assert [page.locator(f"[data-control='{name}']").evaluate("(node) => node.outerHTML") for name in hidden] == []
    assert [name for name, is_visible in reached.items() if name and not is_visible] == []
