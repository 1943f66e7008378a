"""Everybody can use the page: axe in every state, targets, languages, small and large screens, the keyboard alone."""

from importlib.resources import files
from typing import Any

import pytest

from model import CHINESE, ENGLISH
from tests.helpers.browser import BROWSER_TESTS, Person
from tests.helpers.page_states import DESKTOP, PHONE, TABLET, walk

pytestmark = BROWSER_TESTS
SCHEMES = ("light", "dark")
RUN_AXE = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(" | ")}`);
}"""
# Returns the controls that are smaller than a number of pixels. What a label holds is as large as its label.
SMALL_CONTROLS = """(least) => {
    const root = document.querySelector("#visualglm dialog[open]") ?? document.getElementById("visualglm");
    const isShown = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const controls = [...root.querySelectorAll("button, a[href], input, select, textarea, summary")];
    return controls.filter((node) => isShown(node) && !node.closest("[inert], .skip-link")).map((node) => {
        const { width, height } = (node.closest("label") ?? node).getBoundingClientRect();
        return [Math.min(width, height), `${Math.round(width)} x ${Math.round(height)}: ${node.outerHTML.slice(0, 120)}`];
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
    faults = [*page.evaluate(SMALL_CONTROLS, least), *page.evaluate(WIDE_AREAS)]
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        faults += [f"{scheme}: {fault}" for fault in page.evaluate(RUN_AXE)]
    return faults


@pytest.mark.parametrize(
    ("device", "language", "least"), [(PHONE, "zh", 44), (TABLET, "en", 44), (DESKTOP, "zh", 24)], ids=["390", "768", "1440"]
)
def test_each_state_is_accessible(enter: Any, device: dict[str, Any], language: str, least: int) -> None:
    person = enter(query=f"?lang={language}", **device)
    person.page.evaluate(read_axe())
    faults = {}
    for state in walk(person):
        person.keeps(f"{device['viewport']['width']}-{state}")
        if found := find_faults(person.page, least):
            faults[state] = found
    assert faults == {}
